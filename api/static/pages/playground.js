// @ts-check
/** The playground: ask, and see the answer as it comes, and which tier gives it. */

import { make, put, say } from '../core/dom.js'
import { Answer, eventsOf } from '../core/events.js'
import { Refused, ask, reason, send } from '../core/http.js'
import { go, to } from '../core/router.js'
import { milliseconds, number, took } from '../core/text.js'
import { alongList, needsNoPrompt, note, nothing, showAlong, takenFrom, whyNotAgain, withText } from '../parts/again.js'
import { choice, complaint, labelled, valuesOf } from '../parts/forms.js'
import { shownId } from '../parts/ids.js'
import { messagesOf, shown, textOf } from '../parts/messages.js'

/** @typedef {import('../parts/again.js').Beside} Beside */
/** @typedef {import('../parts/again.js').Message} Message */

/** What was written and not sent, kept while one looks elsewhere. */
const draft = { prompt: '', system: '' }
export function forgetDrafts() { Object.assign(draft, { prompt: '', system: '' }) }

/**
 * @param {import('../core/types.js').Where} where
 * @returns {import('../core/types.js').View}
 */
export function playground({ query }) {
  const page = build(), beside = nothing()
  /** @type {AbortController | null} */
  let asking = null
  let begun = false

  async function look() {
    if (begun) return null
    const { data } = await ask('v1/models')
    begun = true
    put(page.models, ...data.map((/** @type {any} */ model) => make('option', { value: model.id })))
    const earlier = query.get('job')
    if (earlier) takeFrom(page, beside, await ask(`v1/jobs/${encodeURIComponent(earlier)}`))
    return null
  }

  async function askNow() {
    const request = requestOf(page, beside)
    if (!request || asking) return
    const { asked } = request
    asking = new AbortController()
    page.stop.hidden = false
    page.send.setAttribute('aria-disabled', 'true')
    if (asked) page.talk.append(shown('you', textOf(asked.content)))
    const answered = await streamed(page, request, asking.signal)
    if (answered !== null) {
      const talk = [...beside.talk, ...(asked ? [asked] : []), { role: 'assistant', content: answered }]
      Object.assign(beside, { talk, last: null, bare: false })
      page.prompt.value = draft.prompt = ''
      showBeside(page, beside)
    }
    asking = null
    page.stop.hidden = true
    page.send.removeAttribute('aria-disabled')
  }

  page.form.addEventListener('submit', (event) => {
    event.preventDefault()
    askNow()
  })
  page.prompt.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) askNow()
  })
  page.stop.addEventListener('click', () => asking?.abort())
  page.submit.addEventListener('click', () => submitJob(page, beside))
  page.fresh.addEventListener('click', () => {
    Object.assign(beside, { talk: [], bare: false })
    put(page.talk)
    showBeside(page, beside)
    page.prompt.focus()
  })
  return { title: 'Playground', element: page.element, look, leave: () => asking?.abort() }
}

/** @typedef {ReturnType<typeof build>} Page */

function build() {
  const models = make('datalist', { id: 'models' }), refused = complaint('not-asked'), along = alongList()
  const prompt = make('textarea', { name: 'prompt', rows: 4, required: true }), system = make('textarea', { name: 'system', rows: 2 })
  prompt.value = draft.prompt
  system.value = draft.system
  prompt.addEventListener('input', () => (draft.prompt = prompt.value))
  system.addEventListener('input', () => (draft.system = system.value))
  const sendButton = make('button', { class: 'main' }, 'Send'), stop = make('button', { type: 'button', class: 'danger', hidden: true }, 'Stop')
  const submit = make('button', { type: 'button' }, 'Submit as a job'), fresh = make('button', { type: 'button' }, 'New conversation')
  const form = make('form', { class: 'card fields' },
    make('div', { class: 'whole-row' }, labelled('Prompt', prompt, 'Ctrl+Enter sends it')), make('div', { class: 'whole-row' }, labelled('System message', system)),
    labelled('Model', make('input', { name: 'model', list: 'models', placeholder: "each tier's own", autocomplete: 'off' })),
    labelled('Tiers', make('input', { name: 'tiers', placeholder: 'all', autocomplete: 'off' }), 'Names, as in gpu,cpu'),
    labelled('Cache', choice('cache', [['fallback', 'when the tiers failed'], ['first', 'first'], ['off', 'off']], 'fallback')),
    labelled('When no tier answers', choice('on_exhausted', [['degraded', 'the degraded message'], ['wait', 'wait'], ['fail', 'fail']], 'degraded')),
    labelled('Most tokens', make('input', { name: 'max_tokens', type: 'number', min: 1, step: 1 })),
    labelled('Temperature', make('input', { name: 'temperature', type: 'number', min: 0, max: 2, step: 'any' })),
    along, make('div', { class: 'actions whole-row' }, sendButton, stop, submit, fresh), refused, models)
  const talk = make('div', { class: 'talk', 'aria-label': 'Conversation', role: 'region' })
  const element = make('div', { class: 'playground' }, make('h2', { tabindex: -1 }, 'Playground'), talk, form)
  return { element, form, prompt, system, models, send: sendButton, stop, submit, fresh, talk, along, refused }
}

/**
 * What is to be asked; null, and said, if there is nothing. asked: its last message, if that is the form's.
 *
 * @param {Page} page
 * @param {Beside} beside
 * @returns {{ body: Record<string, any>, handling: Record<string, any>, asked: Message | null } | null}
 */
function requestOf(page, beside) {
  const { prompt, system, model, tiers, cache, on_exhausted, max_tokens, temperature } = valuesOf(page.form)
  const { talk, last, fields, labels } = beside, askable = prompt || needsNoPrompt(beside)
  say(page.refused, askable ? '' : 'Write a prompt first.')
  if (!askable) return null
  draft.prompt = prompt
  const asked = prompt || last ? withText(last || { role: 'user', content: '' }, prompt) : null
  const instruction = system && withText(beside.system || { role: 'system', content: '' }, system)
  const names = tiers.split(',').map((name) => name.trim()).filter(Boolean)
  return {
    body: {
      ...fields, messages: [...(instruction ? [instruction] : []), ...talk, ...(asked ? [asked] : [])],
      ...(model && { model }), ...(max_tokens && { max_tokens: Number(max_tokens) }), ...(temperature && { temperature: Number(temperature) }),
    },
    handling: { cache, on_exhausted, ...(names.length && { tiers: names }), ...(Object.keys(labels).length && { metadata: labels }) },
    asked,
  }
}

/**
 * Asks, and shows the answer as it comes; returns its text, null if there is none.
 *
 * @param {Page} page
 * @param {{ body: Record<string, any>, handling: Record<string, any> }} request
 * @param {AbortSignal} signal
 */
async function streamed(page, { body: request, handling }, signal) {
  const began = performance.now(), answer = new Answer(), place = shown('asking …', '')
  const who = /** @type {HTMLElement} */ (place.firstElementChild), text = /** @type {HTMLElement} */ (place.lastElementChild)
  who.setAttribute('role', 'status')
  page.talk.append(place)
  let jobId = '', tier = '', first = 0
  try {
    const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true }, fallthrough: handling })
    const reply = await send('v1/chat/completions', { method: 'POST', headers: { 'content-type': 'application/json' }, body, signal })
    jobId = reply.headers.get('x-fallthrough-job-id') || ''
    tier = reply.headers.get('x-fallthrough-tier') || ''
    for await (const event of eventsOf(reply)) {
      answer.take(event)
      first ||= answer.text ? performance.now() - began : 0
      say(who, answer.text ? tier || 'answering …' : `${answer.note || 'asking'} …`)
      say(text, answer.text)
    }
  } catch (error) {
    answer.error ||= signal.aborted ? 'stopped' : reason(error)
    if (error instanceof Refused && error.status === 401) dispatchEvent(new HashChangeEvent('hashchange'))
  }
  await showEnd(place, answer, jobId, tier, [first, performance.now() - began])
  return answer.error ? null : answer.text
}

/**
 * @param {HTMLElement} place
 * @param {Answer} answer
 * @param {string} jobId
 * @param {string} tier
 * @param {[number, number]} times ms to the first words, and to the end
 */
async function showEnd(place, answer, jobId, tier, [first, whole]) {
  const job = jobId ? await ask(`v1/jobs/${encodeURIComponent(jobId)}`).catch(() => null) : null
  const who = /** @type {HTMLElement} */ (place.firstElementChild), passed = (job?.attempts || []).filter((/** @type {any} */ each) => each.verdict !== 'answered')
  const before = passed.map((/** @type {any} */ each) => `${each.tier} ${each.verdict}`).join(', ')
  say(who, job?.tier_used || tier || (answer.error ? 'no answer' : 'answered'))
  who.className = job?.degraded ? 'warn' : 'dim'
  if (answer.error) place.append(make('p', { class: 'bad', role: 'alert' }, answer.error))
  const told = [job?.model || answer.model, first ? `first words after ${milliseconds(first)}` : '', took(whole / 1000), answer.usage?.completion_tokens ? `${number(answer.usage.completion_tokens)} tokens` : '', before && `before: ${before}`]
  place.append(make('p', { class: 'dim end' }, told.filter(Boolean).join(' · '), ' ', jobId ? shownId(jobId, to('jobs', jobId)) : null))
}

/**
 * @param {Page} page
 * @param {Beside} beside
 */
async function submitJob(page, beside) {
  const request = requestOf(page, beside)
  if (!request) return
  try {
    const made = await ask('v1/jobs', 'POST', { ...request.body, ...request.handling, stream: true })
    forgetDrafts()
    go(to('jobs', made.id))
  } catch (error) { say(page.refused, `Not submitted: ${reason(error)}`) }
}

/**
 * Takes an earlier request over: into the form, into the talk, and what neither shows as what is sent along.
 *
 * @param {Page} page
 * @param {Beside} beside
 * @param {import('../core/types.js').Job} job
 */
function takeFrom(page, beside, job) {
  const fault = whyNotAgain(job)
  say(page.refused, fault)
  if (fault) return
  const taken = takenFrom(job)
  Object.assign(beside, taken.beside)
  for (const [name, value] of Object.entries(taken.form)) {
    const field = page.form.elements.namedItem(name)
    if (field instanceof HTMLInputElement || field instanceof HTMLTextAreaElement) field.value = value
  }
  put(page.talk, ...messagesOf({ messages: beside.talk }))
  note(page.along, taken.notes)
  showBeside(page, beside)
}

/**
 * @param {Page} page
 * @param {Beside} beside
 */
function showBeside(page, beside) {
  page.prompt.required = !needsNoPrompt(beside)
  showAlong(page.along, beside, () => showBeside(page, beside))
}
