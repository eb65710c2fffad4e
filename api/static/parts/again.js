// @ts-check
/** A job that is asked again: what of its request goes into the form, and what is sent along as it is. */

import { fill, make, part, put, say } from '../core/dom.js'

/** @typedef {{ role: string, content?: any, [name: string]: any }} Message */
/**
 * What is asked beside what the form's fields say.
 *
 * @typedef {object} Beside
 * @property {Message | null} system as it was, where the form has its text
 * @property {Message[]} talk earlier turns
 * @property {Message | null} last as it was, where the form has its text as the prompt
 * @property {boolean} bare whether the talk asks for an answer without a prompt
 * @property {Record<string, unknown>} fields of the request
 * @property {Record<string, string>} labels of the job
 */

const IN_FORM = ['model', 'max_tokens', 'temperature']
const OWN = ['messages', 'stream', 'stream_options'] // the playground says how it wants its answers
const LONGEST_SHOWN = 80 // letters of a value
const UNTOLD = 'A job does not tell its tiers, its cache, and what to do when no tier answers: choose them in the form. Nor does it tell its deadline, which is the usual one here.'
const COMPLETED = 'The job had its prompt completed (/v1/completions); here it goes to the model as a message.'

/** @returns {Beside} */
export const nothing = () => ({ system: null, talk: [], last: null, bare: false, fields: {}, labels: {} })

/**
 * Says why a job cannot be asked again.
 *
 * @param {import('../core/types.js').Job} job
 * @returns {string} empty if it can
 */
export function whyNotAgain({ request }) {
  if (!request) return 'The request of this job was too long to be kept: there is nothing to ask again.'
  return request.messages || typeof request.prompt === 'string' ? '' : 'This job asked for embeddings, and the playground asks for chat completions.'
}

/**
 * Reads the request of a job that can be asked again.
 *
 * @param {import('../core/types.js').Job} job
 * @returns {{ form: Record<string, string>, beside: Beside, notes: string[] }}
 */
export function takenFrom({ request, metadata }) {
  const { prompt, ...others } = request || {}, completed = !others.messages
  const turns = turnsOf(completed ? [{ role: 'user', content: prompt }] : others.messages)
  const all = completed || prompt === undefined ? others : { prompt, ...others }
  const inForm = IN_FORM.filter((name) => ['number', 'string'].includes(typeof all[name]))
  const given = Object.fromEntries(inForm.map((name) => [name, String(all[name])]))
  const fields = Object.fromEntries(Object.entries(all).filter(([name]) => !OWN.includes(name) && !inForm.includes(name)))
  // A completion's own metadata goes to the model, and labels its job; it is among the fields.
  const own = Object.entries(metadata || {}).some(([name, value]) => all.metadata?.[name] !== value)
  return {
    form: { ...given, prompt: wordsOf(turns.last), system: wordsOf(turns.system) },
    beside: { ...turns, fields, labels: own ? metadata : {} },
    notes: [UNTOLD, ...(completed ? [COMPLETED] : [])],
  }
}

/** @param {Message[]} messages */
function turnsOf(messages) {
  const [first, ...rest] = messages, instructs = first.role === 'system' || first.role === 'developer'
  const talk = instructs ? rest : messages, end = talk[talk.length - 1], asks = end?.role === 'user'
  return { system: instructs ? first : null, talk: asks ? talk.slice(0, -1) : talk, last: asks ? end : null, bare: !asks }
}

/** @param {any} piece of a message's content */
const isText = (piece) => typeof piece?.text === 'string'

/**
 * The text of a message, without what else it has.
 *
 * @param {Message | null} message
 */
function wordsOf(message) {
  const content = message?.content
  if (Array.isArray(content)) return content.filter(isText).map(({ text }) => text).join('\n')
  return typeof content === 'string' ? content : ''
}

/** @param {string} text as a form gives it back */
const plain = (text) => text.replace(/\r\n?/g, '\n').trim()

/**
 * A message with the text of a field: as it was, if that is unchanged.
 *
 * @param {Message} message
 * @param {string} text
 * @returns {Message}
 */
export function withText(message, text) {
  if (plain(wordsOf(message)) === plain(text)) return message
  if (!Array.isArray(message.content)) return { ...message, content: text }
  const place = message.content.findIndex(isText), piece = { type: 'text', text }
  const content = message.content.flatMap((each, n) => (!isText(each) ? [each] : text && n === place ? [{ ...each, text }] : []))
  return { ...message, content: text && place < 0 ? [piece, ...content] : content }
}

/**
 * The parts of a message that are no text.
 *
 * @param {Message | null} message
 * @returns {any[]}
 */
const piecesOf = (message) => (Array.isArray(message?.content) ? /** @type {Message} */ (message).content.filter((/** @type {any} */ piece) => !isText(piece)) : [])

/**
 * What of a message its text does not show, by name.
 *
 * @param {Message | null} message
 * @returns {string[]}
 */
function extrasOf(message) {
  const names = Object.keys(message || {}).filter((name) => name !== 'role' && name !== 'content')
  return [...piecesOf(message).map((piece) => piece?.type || 'part'), ...names]
}

/**
 * Whether there is something to ask without a prompt.
 *
 * @param {Beside} beside
 */
export const needsNoPrompt = ({ bare, last }) => bare || piecesOf(last).length > 0

/**
 * The place for what is sent along.
 *
 * @returns {HTMLElement}
 */
export function alongList() {
  return make('div', { class: 'along whole-row', role: 'group', 'aria-label': 'Sent along', hidden: true },
    make('p', { class: 'dim head' }), make('ul'), make('div', { class: 'notes' }))
}

/**
 * @param {HTMLElement} place
 * @param {string[]} notes
 */
export function note(place, notes) {
  put(part(place, 'notes'), ...notes.map((text) => make('p', { class: 'dim' }, text)))
}

/**
 * Shows what is sent along, each with what leaves it out.
 *
 * @param {HTMLElement} place
 * @param {Beside} beside
 * @param {() => void} changed
 */
export function showAlong(place, beside, changed) {
  const items = itemsOf(beside), list = /** @type {HTMLElement} */ (place.querySelector('ul'))
  const leaveOut = (/** @type {() => void} */ drop) => {
    drop()
    changed()
    list.querySelector('button')?.focus() // the one that had it is gone
  }
  say(part(place, 'head'), items.length ? 'Sent along, as the job had it:' : '')
  fill(list, items, ({ name, value }) => `${name} ${value}`, ({ name, value, drop }) => make('li', {},
    make('code', {}, name), value && ` ${value}`, ' ',
    make('button', { type: 'button', 'aria-label': `Leave out ${name}`, onclick: () => leaveOut(drop) }, 'Leave out')))
  place.hidden = !items.length && !part(place, 'notes').hasChildNodes()
}

/** @param {Beside} beside */
function itemsOf(beside) {
  const { fields, labels, last } = beside, extras = extrasOf(last)
  const items = Object.entries(fields).map(([name, value]) => ({ name, value: short(value), drop: () => { delete fields[name] } }))
  if (Object.keys(labels).length) items.push({ name: 'metadata of the job', value: short(labels), drop: () => { beside.labels = {} } })
  if (extras.length) items.push({ name: `${extras.join(', ')} of the prompt`, value: '', drop: () => { beside.last = null } })
  return items
}

/** @param {unknown} value */
function short(value) {
  const text = JSON.stringify(value)
  return text.length > LONGEST_SHOWN ? `${text.slice(0, LONGEST_SHOWN)}…` : text
}
