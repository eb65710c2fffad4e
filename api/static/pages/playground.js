// @ts-check
/** The playground: ask, and see the answer as it comes, and which tier gives it. */

import { make, put, say } from '../core/dom.js'
import { Answer, eventsOf } from '../core/events.js'
import { Refused, ask, reason, send } from '../core/http.js'
import { go, to } from '../core/router.js'
import { milliseconds, number, took } from '../core/text.js'
import { choice, complaint, labelled, valuesOf } from '../parts/forms.js'
import { shownId } from '../parts/ids.js'
import { shown, textOf } from '../parts/messages.js'

/** @typedef {{ role: string, content: string }} Message */

/** What was written and not sent, kept while one looks elsewhere. */
const draft = { prompt: '', system: '' }
export function forgetDrafts() { Object.assign(draft, { prompt: '', system: '' }) }

/**
 * @param {import('../core/types.js').Where} where
 * @returns {import('../core/types.js').View}
 */
export function playground({ query }) {
  const page = build()
  /** @type {Message[]} */
  let talk = []
  /** @type {AbortController | null} */
  let asking = null
  let begun = false

  async function look() {
    if (begun) return null
    const { data } = await ask('v1/models')
    begun = true
    put(page.models, ...data.map((/** @type {any} */ model) => make('option', { value: model.id })))
    const earlier = query.get('job')
    if (earlier) takeFrom(page, (await ask(`v1/jobs/${encodeURIComponent(earlier)}`)).request)
    return null
  }

  async function askNow() {
    const request = requestOf(page, talk)
    if (!request || asking) return
    asking = new AbortController()
    page.stop.hidden = false
    page.send.setAttribute('aria-disabled', 'true')
    page.talk.append(shown('you', draft.prompt))
    const answered = await streamed(page, request, asking.signal)
    if (answered !== null) {
      talk = [...request.messages.filter((/** @type {Message} */ { role }) => role !== 'system'), { role: 'assistant', content: answered }]
      page.prompt.value = draft.prompt = ''
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
  page.submit.addEventListener('click', () => submitJob(page, talk))
  page.fresh.addEventListener('click', () => {
    talk = []
    put(page.talk)
    page.prompt.focus()
  })
  return { title: 'Playground', element: page.element, look, leave: () => asking?.abort() }
}

/** @typedef {ReturnType<typeof build>} Page */

function build() {
  const models = make('datalist', { id: 'models' }), refused = complaint('not-asked')
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
    labelled('Temperature', make('input', { name: 'temperature', type: 'number', min: 0, max: 2, step: 0.1 })),
    make('div', { class: 'actions whole-row' }, sendButton, stop, submit, fresh), refused, models)
  const talk = make('div', { class: 'talk', 'aria-label': 'Conversation', role: 'region' })
  const element = make('div', { class: 'playground' }, make('h2', { tabindex: -1 }, 'Playground'), talk, form)
  return { element, form, prompt, system, models, send: sendButton, stop, submit, fresh, talk, refused }
}

/**
 * What is to be asked; null, and said, if there is nothing.
 *
 * @param {Page} page
 * @param {Message[]} talk
 * @returns {Record<string, any> | null}
 */
function requestOf(page, talk) {
  const { prompt, system, model, tiers, cache, on_exhausted, max_tokens, temperature } = valuesOf(page.form)
  say(page.refused, prompt ? '' : 'Write a prompt first.')
  if (!prompt) return null
  draft.prompt = prompt
  const messages = [...(system ? [{ role: 'system', content: system }] : []), ...talk, { role: 'user', content: prompt }]
  const names = tiers.split(',').map((name) => name.trim()).filter(Boolean)
  return {
    messages, ...(model && { model }), ...(max_tokens && { max_tokens: Number(max_tokens) }), ...(temperature && { temperature: Number(temperature) }),
    handling: { cache, on_exhausted, ...(names.length && { tiers: names }) },
  }
}

/**
 * Asks, and shows the answer as it comes; returns its text, null if there is none.
 *
 * @param {Page} page
 * @param {Record<string, any>} request
 * @param {AbortSignal} signal
 */
async function streamed(page, { handling, ...request }, signal) {
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
 * @param {Message[]} talk
 */
async function submitJob(page, talk) {
  const asked = requestOf(page, talk)
  if (!asked) return
  const { handling, ...request } = asked
  try {
    const made = await ask('v1/jobs', 'POST', { ...request, ...handling, stream: true })
    forgetDrafts()
    go(to('jobs', made.id))
  } catch (error) { say(page.refused, `Not submitted: ${reason(error)}`) }
}

/**
 * Puts an earlier request into the form.
 *
 * @param {Page} page
 * @param {Record<string, any> | null} request
 */
function takeFrom(page, request) {
  if (!request) return
  const messages = request.messages || [{ role: 'user', content: request.prompt }]
  const last = (/** @type {string} */ role) => textOf([...messages].reverse().find((/** @type {any} */ each) => each.role === role)?.content)
  page.prompt.value = draft.prompt = last('user')
  page.system.value = draft.system = last('system')
  for (const name of ['model', 'max_tokens', 'temperature']) {
    const field = page.form.elements.namedItem(name)
    if (field instanceof HTMLInputElement && request[name] !== undefined) field.value = String(request[name])
  }
}
