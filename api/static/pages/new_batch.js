// @ts-check
/** A new batch: upload a file, see what is wrong with its lines, start it. */

import { fill, make, put, say } from '../core/dom.js'
import { ask, reason, send, upload } from '../core/http.js'
import { go, to } from '../core/router.js'
import { number, several } from '../core/text.js'
import { choice, complaint, labelled, valuesOf } from '../parts/forms.js'
import { shownId } from '../parts/ids.js'
import { table } from '../parts/listing.js'

/** @typedef {import('../core/types.js').Validation} Validation */

const LARGEST = 200 * 1024 * 1024

/**
 * @param {import('../core/types.js').Where} where
 * @returns {import('../core/types.js').View}
 */
export function newBatch({ query }) {
  const page = build(), left = new AbortController()
  let given = query.get('file') || '' // a file that was uploaded before

  async function look() {
    if (given) await check(page, given)
    else await ask('v1/files?limit=1') // is the API there, and the key good?
    return null
  }

  /** @param {File} file */
  async function take(file) {
    const wrong = faultOf(file)
    say(page.refused, wrong)
    if (wrong) return
    page.bar.hidden = false
    say(page.note, `Uploading ${file.name} …`)
    try {
      const stored = await upload(file, (share) => (page.bar.value = share), left.signal)
      given = stored.id
      await check(page, given, stored.filename)
    } catch (error) {
      say(page.note, '')
      say(page.refused, `Not uploaded: ${reason(error)}`)
    } finally { page.bar.hidden = true }
  }

  page.file.addEventListener('change', () => {
    const file = page.file.files?.[0]
    page.file.value = '' // or the same file, once mended, would be no change
    if (file) take(file)
  })
  page.drop.addEventListener('dragover', (event) => event.preventDefault())
  page.drop.addEventListener('drop', (event) => {
    event.preventDefault()
    if (event.dataTransfer?.files[0]) take(event.dataTransfer.files[0])
  })
  page.form.addEventListener('submit', (event) => {
    event.preventDefault()
    start(page, given)
  })
  return { title: 'New batch', element: page.element, look, leave: () => left.abort() }
}

/** @param {File} file */
function faultOf(file) {
  if (!file.name.toLowerCase().endsWith('.jsonl')) return `${file.name}: the name must end in .jsonl. Each line is a request, as JSON.`
  return file.size > LARGEST ? `${file.name} is larger than 200 MB: split it into several files.` : ''
}

/** @typedef {ReturnType<typeof build>} Page */

function build() {
  const file = make('input', { type: 'file', accept: '.jsonl' }), bar = make('progress', { 'aria-label': 'uploaded', value: 0, hidden: true })
  const note = make('p', { role: 'status', class: 'checked' }), refused = complaint('refused-file'), stored = make('p')
  const problems = table('Problems', [['line', 'number'], ['code'], ['message', 'message']])
  const drop = make('div', { class: 'card drop' }, labelled('A file of requests, as JSON lines', file, 'Up to 50,000 lines and 200 MB, of one model: {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content": "Hello"}]}}'), bar)
  const startButton = make('button', { class: 'main' }, 'Start the batch'), failed = complaint('not-started')
  const form = make('form', { class: 'card fields', hidden: true },
    labelled('Ends at the latest after', choice('completion_window', [['1h', '1 hour'], ['24h', '24 hours'], ['7d', '7 days']], '24h')),
    labelled('When no tier answers', choice('fallthrough_on_exhausted', [['wait', 'wait for a tier'], ['fail', 'fail the line'], ['degraded', 'give the degraded message']], 'wait')),
    labelled('Cache', choice('fallthrough_cache', [['off', 'off'], ['fallback', 'when the tiers failed'], ['first', 'first']], 'off')),
    labelled('Priority', choice('priority', [['low', 'low'], ['normal', 'normal'], ['high', 'high']], 'normal')),
    labelled('Tiers', make('input', { name: 'fallthrough_tiers', placeholder: 'all', autocomplete: 'off' }), 'Names, as in gpu,cpu; empty: any'),
    labelled('Label', make('input', { name: 'label', maxlength: 512, autocomplete: 'off' }), 'Kept as metadata, to find it again'),
    make('div', { class: 'actions' }, startButton), failed)
  problems.element.hidden = true
  const element = make('div', {}, make('div', { class: 'top' }, make('h2', { tabindex: -1 }, 'New batch'), make('a', { href: to('files') }, 'Use a file that is there')),
    drop, refused, note, stored, problems.element, form)
  return { element, file, bar, note, refused, stored, problems, drop, form, startButton, failed }
}

/**
 * Has the lines of a file checked, and shows what is wrong with each.
 *
 * @param {Page} page
 * @param {string} fileId
 * @param {string} [name]
 */
async function check(page, fileId, name = '') {
  say(page.note, 'Checking its lines …')
  put(page.stored, name && `${name} `, shownId(fileId))
  const reply = await send('v1/validations', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ input_file_id: fileId }) })
  const found = /** @type {Validation} */ (await reply.json())
  const told = found.problems.length < found.problem_count ? `, of which these are the first ${found.problems.length}` : ''
  page.note.className = found.problem_count ? 'checked bad' : 'checked'
  say(page.note, found.problem_count ? `${several(found.problem_count, 'problem')} in ${several(found.lines, 'line')}${told}. Mend the file, and choose it again.` : `${several(found.lines, 'line')}, all good, for ${found.endpoint}.`)
  page.problems.element.hidden = !found.problems.length
  fill(page.problems.rows, found.problems, (each) => JSON.stringify(each), ({ line, code, message }) => make('tr', {},
    make('td', { class: 'number' }, line === null ? 'all' : number(line)), make('td', {}, code), make('td', { class: 'message' }, message)))
  page.form.hidden = found.problem_count > 0
  page.form.dataset.endpoint = found.endpoint
}

/**
 * @param {Page} page
 * @param {string} fileId
 */
async function start(page, fileId) {
  const { completion_window, label, fallthrough_tiers: tiers, ...options } = valuesOf(page.form)
  const metadata = { ...options, ...(tiers && { fallthrough_tiers: tiers }), ...(label && { label }) }
  page.startButton.disabled = true
  try {
    const made = await ask('v1/batches', 'POST', { input_file_id: fileId, endpoint: page.form.dataset.endpoint, completion_window, metadata })
    go(to('batches', made.id))
  } catch (error) {
    say(page.failed, `Not started: ${reason(error)}`)
    page.startButton.disabled = false
  }
}
