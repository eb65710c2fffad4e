// @ts-check
/** A card for each tier's server: whether it may be asked, and what it does. */

import { $, fill, make, part, say, tell } from '../core/dom.js'
import { ask, reason } from '../core/http.js'
import { WINDOW_SECONDS, rate } from '../core/rates.js'
import { to } from '../core/router.js'
import { clockOf, lasting, number, pace, serverName } from '../core/text.js'
import { BY_HAND, TROUBLES, stateOf, troublesOf } from './glance.js'

/** @typedef {import('../core/types.js').Breaker} Breaker */
/** @typedef {import('../core/types.js').Operations} Operations */

/** @type {Record<string, string>} */
const WORDS = { closed: 'in service', half_open: 'being probed', open: 'out of service' }
/** @type {Record<string, string>} */
export const LEVELS = { closed: 'good', half_open: 'warn', open: 'bad', held: 'warn' }
/** @type {Record<string, string>} */
const HOLDS = { saturated: 'the server is busy', misconfigured: 'the server refuses us' }

/**
 * @param {HTMLElement} cards
 * @param {Operations} operations
 * @param {() => void} changed
 */
export function showTiers(cards, operations, changed) {
  fill(cards, operations.breakers, ([name]) => name, ([name]) => makeTier(name, changed), (card, [name, b]) => {
    showTier(card, name, b, operations)
    showAnswers(card, name, b, operations)
  })
}

/**
 * @param {string} name
 * @param {() => void} changed
 */
function makeTier(name, changed) {
  const reset = make('button', { type: 'button', 'aria-label': `Reset breaker ${name}` }, 'Reset')
  reset.addEventListener('click', () => resetBreaker(name, reset).then(changed))
  const title = make('h3', {}, make('a', { href: to('breakers', name) }, serverName(name)))
  const lines = ['state mark', 'left', 'troubles dim'].map((kind) => make('p', { class: kind }))
  return make('div', {}, make('div', { class: 'top' }, title, reset), ...lines,
    make('p', {}, make('span', { class: 'pace' }), ' ', make('span', { class: 'answered dim' })),
    make('p', { class: 'unusable dim' }), make('p', { class: 'breaker dim' }))
}

/**
 * @param {HTMLElement} card
 * @param {string} name
 * @param {Breaker} b
 * @param {Operations} operations
 */
function showTier(card, name, b, operations) {
  const state = stateOf(b), troubles = troublesOf(operations, name), worst = state === 'closed' ? troubles[0] : undefined
  const level = worst ? TROUBLES[worst.trouble][0] : b.override === 'disabled' ? 'warn' : LEVELS[state]
  card.className = `card ${level}`
  card.dataset.state = state
  card.dataset.override = b.override || ''
  card.dataset.dueAt = String(b.retry_after_seconds > 0 ? performance.now() + b.retry_after_seconds * 1000 : 0)
  part(card, 'state').className = `state mark ${level}`
  say(part(card, 'state'), stateWords(b, worst))
  say(part(card, 'troubles'), troubleWords(b, troubles))
  say(part(card, 'breaker'), `${name}: ${detailOf(b)}`)
  const idle = b.state === 'closed' && !b.held && !b.consecutive_failures && !b.override
  card.querySelector('button')?.setAttribute('aria-disabled', String(idle))
}

/**
 * @param {Breaker} b
 * @param {import('../core/types.js').Trouble} [worst]
 */
export function stateWords(b, worst) {
  if (b.held) return `held back: ${HOLDS[b.hold_reason || ''] || b.hold_reason}`
  return BY_HAND[b.override || ''] || (worst ? TROUBLES[worst.trouble][1] : WORDS[b.state])
}

/**
 * Who did what by hand, or what its server did.
 *
 * @param {Breaker} b
 * @param {import('../core/types.js').Trouble[]} troubles
 */
export function troubleWords(b, troubles) {
  const failed = b.state !== 'closed' && !troubles.length && !b.override && b.unanswered
  const told = troubles.map((t) => `${t.host} ${TROUBLES[t.trouble][1]}: ${t.reason}, ${number(t.count)} ${t.count === 1 ? 'try' : 'tries'} since ${clockOf(t.first_seen)}`)
  if (b.override) told.unshift(handWords(b))
  else if (failed) told.unshift(`${failed.host} does not answer: ${failed.last}, since ${clockOf(failed.since)}`)
  return told.join('. ')
}

/** @param {Breaker} b */
export function handWords(b) {
  const { by, why, at } = b.changed || {}
  return `by ${by || 'somebody'} at ${clockOf(at)}${why ? `: ${why}` : ''}`
}

/** @param {Breaker} b */
export function detailOf(b) {
  const opened = b.opened_in_a_row > 1 ? `opened ${b.opened_in_a_row} times in a row` : `probes after ${lasting(b.recovery_timeout_seconds)}`
  /** @type {Record<string, string>} */
  const detail = {
    closed: `${b.consecutive_failures} of ${b.failure_threshold} failures`, half_open: `${b.half_open_successes} of ${b.success_threshold} probes good`,
    open: b.override ? 'until somebody sets it to auto or resets it' : opened,
  }
  return `${b.state.replace('_', '-')}, ${detail[b.state]}`
}

/**
 * Answers are counted by tier: of several servers the first one's card tells them.
 *
 * @param {HTMLElement} card
 * @param {string} name
 * @param {Breaker} b
 * @param {Operations} operations
 */
function showAnswers(card, name, b, { breakers, metrics }) {
  const tier = name.includes(':') ? '' : b.tier
  const servers = breakers.filter(([other]) => other.split(':')[0] === name).length
  const answered = metrics.jobs[tier]?.succeeded || 0
  say(part(card, 'pace'), servers ? pace(rate(name, answered), 'answers', WINDOW_SECONDS) : '')
  say(part(card, 'answered'), servers ? `· ${number(answered)} so far${servers > 1 ? `, by its ${servers} servers` : ''}` : '')
  const unusable = Object.entries(metrics.unusable[tier] || {}).filter(([, n]) => n)
  say(part(card, 'unusable'), unusable.length ? `not shown: ${unusable.map(([what, n]) => `${number(n)} ${what}`).join(', ')}` : '')
}

/**
 * What is left until a breaker lets calls through again.
 *
 * @param {HTMLElement} cards
 */
export function countDown(cards) {
  const now = performance.now(), stale = $('all').classList.contains('stale')
  for (const card of cards.children) {
    if (!(card instanceof HTMLElement)) continue
    const { state, override, dueAt } = card.dataset, left = (Number(dueAt) - now) / 1000
    const what = state === 'open' ? 'next probe' : 'calls again'
    let text = ''
    if (!override && (state === 'open' || state === 'held')) text = stale ? `${what}: not known` : left > 0 ? `${what} in ${lasting(left)}` : `${what} with the next job`
    say(part(card, 'left'), text)
  }
}

/**
 * @param {string} name
 * @param {HTMLButtonElement} button
 */
async function resetBreaker(name, button) {
  if (button.getAttribute('aria-disabled') === 'true') return
  try {
    const b = await ask(`circuit-breakers/${encodeURIComponent(name)}/reset`, 'POST')
    tell(`Breaker ${name} is ${b.state}.`)
  } catch (error) {
    tell(`Breaker ${name} was not reset: ${reason(error)}`, true)
  }
}
