// @ts-check
/** A job: its way through the tiers, what was asked, and the answer as it comes. */

import { make, part, put, say, tell } from '../core/dom.js'
import { Answer, eventsOf } from '../core/events.js'
import { ask, reason, send } from '../core/http.js'
import { LOOK_MS } from '../core/loop.js'
import { to } from '../core/router.js'
import { moment, number, plain, took } from '../core/text.js'
import { whyNotAgain } from '../parts/again.js'
import { confirmed } from '../parts/confirm.js'
import { showFacts } from '../parts/facts.js'
import { copyButton, shownId } from '../parts/ids.js'
import { messagesOf } from '../parts/messages.js'
import { timeline } from '../parts/timeline.js'

/** @typedef {import('../core/types.js').Job} Job */

const FINAL = ['succeeded', 'failed', 'cancelled', 'expired']
const AGAIN_MS = 1000 // after a stream that broke off

/**
 * @param {import('../core/types.js').Where} where
 * @returns {import('../core/types.js').View}
 */
export function job({ id }) {
  const path = `v1/jobs/${encodeURIComponent(id)}`, left = new AbortController(), page = build(id)
  /** @type {Job | null} */
  let job = null
  let following = false

  async function look() {
    job = /** @type {Job} */ (await ask(path))
    showJob(page, job)
    if (FINAL.includes(job.status)) return null
    if (!following) {
      following = true
      follow(path, page, left.signal).finally(() => (following = false))
    }
    return LOOK_MS / 2
  }

  function tick() {
    if (job && !FINAL.includes(job.status)) put(part(page.element, 'timeline'), ...timeline(job, Date.now() / 1000))
  }

  page.cancel.addEventListener('click', async () => {
    if (!await confirmed('Cancel this job? What a model has begun is stopped.', 'Cancel the job')) return
    try {
      showJob(page, await ask(`${path}/cancel`, 'POST'))
      tell('The job is cancelled.')
    } catch (error) { tell(`The job was not cancelled: ${reason(error)}`, true) }
  })
  return { title: `Job …${id.slice(-6)}`, element: page.element, look, tick, leave: () => left.abort() }
}

/** @typedef {ReturnType<typeof build>} Shown */

/** @param {string} id */
function build(id) {
  const cancel = make('button', { type: 'button', class: 'danger', hidden: true }, 'Cancel')
  const again = make('a', { class: 'button', href: to('playground', '', { job: id }), hidden: true }, 'Ask again')
  const element = make('article', { class: 'job' },
    make('div', { class: 'top' }, make('h2', { tabindex: -1 }, 'Job'), make('span', { class: 'actions' }, again, cancel)),
    make('p', {}, shownId(id)),
    make('p', { class: 'state mark', role: 'status' }), make('p', { class: 'problem bad' }),
    make('dl', { class: 'card facts' }),
    make('section', { 'aria-labelledby': 'h-way' }, make('h3', { id: 'h-way' }, 'Way through the tiers'), make('ol', { class: 'card timeline' })),
    make('section', { 'aria-labelledby': 'h-request' }, make('h3', { id: 'h-request' }, 'Request'), make('div', { class: 'request' })),
    make('section', { 'aria-labelledby': 'h-answer' }, make('div', { class: 'top' }, make('h3', { id: 'h-answer' }, 'Answer'), make('span', { class: 'copies' })),
      make('p', { class: 'note dim', role: 'status' }), make('details', { class: 'thoughts', hidden: true }, make('summary', {}, 'What it thought'), make('pre')),
      make('pre', { class: 'card answer', tabindex: 0 })),
    make('details', {}, make('summary', {}, 'As JSON'), make('pre', { class: 'card json', tabindex: 0 })))
  return { element, cancel, again }
}

/**
 * @param {Shown} page
 * @param {Job} job
 */
function showJob(page, job) {
  const final = FINAL.includes(job.status), { element } = page
  const level = job.status === 'succeeded' ? (job.degraded ? 'warn' : 'good') : final ? 'bad' : 'warn'
  part(element, 'state').className = `state mark ${level}`
  say(part(element, 'state'), wordsOf(job))
  say(part(element, 'problem'), job.error ? `${job.error.message}${job.error.code ? ` (${job.error.code})` : ''}` : '')
  page.cancel.hidden = final
  page.again.hidden = whyNotAgain(job) !== ''
  showFacts(part(element, 'facts'), factsOf(job))
  put(part(element, 'timeline'), ...timeline(job, Date.now() / 1000))
  showRequest(part(element, 'request'), job)
  if (final) showAnswer(element, job)
  say(part(element, 'json'), JSON.stringify(job, null, 2))
}

/** @param {Job} job */
function wordsOf(job) {
  if (job.degraded) return 'succeeded: no model answered, the degraded message did'
  if (job.tier_used) return `${job.status}: answered by ${job.tier_used}`
  return job.tier && !FINAL.includes(job.status) ? `${job.status}: at ${job.tier}` : job.status
}

/**
 * @param {Job} job
 * @returns {Record<string, string | null>}
 */
function factsOf(job) {
  const { usage } = job
  return {
    'created': moment(job.created_at), 'started': job.started_at ? moment(job.started_at) : null,
    'finished': job.finished_at ? moment(job.finished_at) : null, 'took': job.finished_at ? took(job.finished_at - job.created_at) : null,
    'first words after': job.first_token_at ? took(job.first_token_at - job.created_at) : null,
    'ends at the latest': job.finished_at ? null : moment(job.deadline_at),
    'model': job.model, 'queue': job.queue, 'stream': job.streamed === undefined ? null : job.streamed ? 'yes' : 'no',
    'tokens of the prompt': usage?.prompt_tokens === undefined ? null : number(usage.prompt_tokens),
    'tokens of the answer': usage?.completion_tokens === undefined ? null : number(usage.completion_tokens),
    'age in the cache': job.cache_age_seconds === null ? null : took(job.cache_age_seconds), 'fits the form': job.fit && plain(job.fit),
    ...Object.fromEntries(Object.entries(job.metadata || {}).map(([name, value]) => [`metadata: ${name}`, value])),
  }
}

/**
 * @param {HTMLElement} place
 * @param {Job} job
 */
function showRequest(place, job) {
  if (place.hasChildNodes()) return
  if (job.request) put(place, ...messagesOf(job.request))
  else put(place, make('p', { class: 'dim' }, 'It was too long to be kept (FALLTHROUGH_KEPT_REQUEST_BYTES).'))
}

/**
 * @param {HTMLElement} element
 * @param {Job} job
 */
function showAnswer(element, job) {
  const message = job.answer?.choices?.[0]?.message
  const text = job.text ?? (message?.tool_calls ? JSON.stringify(message.tool_calls, null, 2) : job.answer ? JSON.stringify(job.answer, null, 2) : null)
  const answer = part(element, 'answer'), shown = text ?? answer.textContent ?? ''
  say(answer, shown)
  answer.hidden = !shown
  say(part(element, 'note'), text === null ? (shown ? 'It broke off here.' : 'There is none.') : '')
  showThoughts(element, message?.reasoning_content || message?.reasoning || '')
  if (text && !part(element, 'copies').hasChildNodes()) part(element, 'copies').append(copyButton(text, 'the answer'))
}

/**
 * @param {HTMLElement} element
 * @param {string} thoughts
 */
function showThoughts(element, thoughts) {
  const place = part(element, 'thoughts')
  if (thoughts) say(/** @type {HTMLElement} */ (place.lastElementChild), thoughts)
  place.hidden = !thoughts && !place.lastElementChild?.textContent
}

/**
 * Shows the answer as it comes, from where it was left if the connection breaks off.
 *
 * @param {string} path
 * @param {Shown} page
 * @param {AbortSignal} signal
 */
async function follow(path, page, signal) {
  const answer = new Answer()
  while (!signal.aborted && !answer.done && !answer.error) {
    try {
      const reply = await send(`${path}/stream${answer.last >= 0 ? `?starting_after=${answer.last}` : ''}`, { signal })
      for await (const event of eventsOf(reply)) {
        answer.take(event)
        say(part(page.element, 'note'), answer.text ? '' : answer.note && `${answer.note} …`)
        say(part(page.element, 'answer'), answer.text)
        showThoughts(page.element, answer.thoughts)
      }
    } catch { /* the loop of looks tells what is wrong */ }
    if (!answer.done && !signal.aborted) await new Promise((resolve) => setTimeout(resolve, AGAIN_MS))
  }
}
