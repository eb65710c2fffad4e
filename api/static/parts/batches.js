// @ts-check
/** How far a batch is, in a few words and a bar. */

import { make, part, say } from '../core/dom.js'
import { WINDOW_SECONDS, rate } from '../core/rates.js'
import { to } from '../core/router.js'
import { lasting, number, pace, plain } from '../core/text.js'
import { shownId } from './ids.js'

/** @typedef {import('../core/types.js').Batch} Batch */

export const ENDED = ['completed', 'failed', 'expired', 'cancelled']

/** @param {Batch} b */
export const doneOf = ({ request_counts: { completed, failed } }) => completed + failed

/** @param {Batch} b */
export function stateOf(b) {
  const { total } = b.request_counts, done = doneOf(b)
  const share = total ? ` (${Math.floor((done / total) * 100)}\u00a0%)` : ''
  return `${plain(b.status)}: ${number(done)} of ${number(total)}${share}`
}

/**
 * @param {HTMLProgressElement} bar
 * @param {Batch} b
 */
export function showBar(bar, b) {
  bar.max = b.request_counts.total || 1
  if (b.request_counts.total || ENDED.includes(b.status)) bar.value = doneOf(b)
  else bar.removeAttribute('value') // still being validated: nobody knows how much it is
}

/**
 * The models of a tier that answered lines, the one that answered most first.
 *
 * @param {Batch} b
 * @param {string} tier
 * @param {number} lines
 */
export function modelsOf(b, tier, lines) {
  const models = Object.entries(b.fallthrough?.models?.[tier] || {}).sort((a, c) => c[1] - a[1])
  return models.map(([name, n]) => (n === lines ? name : `${name} ${number(n)}`)).join(', ')
}

/** @param {Batch} b */
export function tiersOf(b) {
  return Object.entries(b.fallthrough?.tiers || {}).filter(([, n]) => n)
}

/**
 * Lines a second, and how long the rest takes: as the API knows it, or as was seen here.
 *
 * @param {Batch} b
 * @returns {[string, string]}
 */
export function paceOf(b) {
  const seen = rate(b.id, doneOf(b)), perSecond = b.fallthrough?.lines_per_second ?? seen
  const left = b.fallthrough?.eta_seconds ?? (perSecond ? (b.request_counts.total - doneOf(b)) / perSecond : null)
  return [pace(perSecond, 'lines', WINDOW_SECONDS), left === null ? '' : `about ${lasting(left)} left`]
}

/** @param {Batch} b */
export function makeCard(b) {
  return make('div', { class: 'card' },
    make('h3', { id: `h-${b.id}`, class: 'dim' }, shownId(b.id, to('batches', b.id))), make('p', { class: 'state' }),
    make('progress', { 'aria-labelledby': `h-${b.id}` }), make('p', { class: 'pace dim' }))
}

/**
 * @param {HTMLElement} card
 * @param {Batch} b
 */
export function showCard(card, b) {
  const { failed } = b.request_counts
  say(part(card, 'state'), stateOf(b))
  showBar(/** @type {HTMLProgressElement} */ (card.querySelector('progress')), b)
  const tiers = tiersOf(b).map(([tier, n]) => {
    const names = modelsOf(b, tier, n)
    return `${tier} ${number(n)}${names && ` (${names})`}`
  })
  const told = [failed ? `${number(failed)} failed` : '', tiers.join(', ')]
  if (b.status === 'in_progress') told.push(...paceOf(b))
  say(part(card, 'pace'), told.filter(Boolean).join(' · '))
}
