// @ts-check
/** Charts of the last hours, of the whole fleet. */

import { fill, make, put, say } from '../core/dom.js'
import { ask, reason } from '../core/http.js'
import { NONE, colour, number, serverName, took } from '../core/text.js'
import { Chart, stateRow } from './chart.js'
import { choice, labelled } from './forms.js'

const EVERY_MS = 30_000
/** @type {Record<string, string>} */
const LEVELS = { closed: 'good', half_open: 'warn', disabled: 'warn', open: 'bad', forced_open: 'bad' }
const ORDER = ['gpu', 'cpu', 'cache', 'degraded']

/** @typedef {import('../core/types.js').Minute} Minute */

/**
 * The tiers that answered, in their order.
 *
 * @param {Minute[]} minutes
 */
function tiersOf(minutes) {
  const place = (/** @type {string} */ tier) => (ORDER.includes(tier) ? ORDER.indexOf(tier) : -1)
  return [...new Set(minutes.flatMap((minute) => Object.keys(minute.answers)))].sort((a, b) => place(a) - place(b))
}

export class History {
  #due = 0
  #answers = new Chart('Answers a second, by tier', (n) => (n === null ? NONE : number(Math.round(n * 100) / 100)), true)
  #latency = new Chart('Time of a call, p95, by tier', took)
  #queued = new Chart('Jobs and lines that wait', number)
  #breakers = make('div', { class: 'breakers' })
  #problem = make('p', { class: 'dim', role: 'status' })
  #hours = choice('hours', [['60', 'last hour'], ['180', 'last 3 hours'], ['1440', 'last 24 hours']], '60')

  constructor() {
    this.#hours.addEventListener('change', () => this.look(true))
    const figure = make('figure', { class: 'card chart' }, make('figcaption', {}, make('h3', {}, 'Breakers')), this.#breakers,
      make('p', { class: 'dim' }, 'low: closed · middle: probed, or disabled by hand · high: open'))
    this.element = make('section', { 'aria-labelledby': 'h-history', id: 'history' },
      make('div', { class: 'top' }, make('h2', { id: 'h-history' }, 'Last hours'), labelled('Show', this.#hours)), this.#problem,
      make('div', { class: 'charts' }, this.#answers.element, this.#latency.element, this.#queued.element, figure))
  }

  /**
   * Asks twice a minute; what goes wrong here is told here.
   *
   * @param {boolean} [now]
   */
  async look(now = false) {
    if (!now && performance.now() < this.#due) return
    this.#due = performance.now() + EVERY_MS
    try {
      const history = await ask(`v1/operations/history?minutes=${this.#hours.value}`)
      say(this.#problem, '')
      this.#show(history.minutes)
    } catch (error) {
      say(this.#problem, `No charts: ${reason(error)}`)
    }
  }

  /** @param {Minute[]} minutes */
  #show(minutes) {
    const whole = minutes.slice(0, -1) // the last one still runs
    const times = whole.map((minute) => minute.at), tiers = tiersOf(whole)
    const byTier = (/** @type {(minute: Minute, tier: string) => number | null} */ value) => tiers.map((tier) => ({ name: tier, colour: colour(tier, tiers), values: whole.map((minute) => value(minute, tier)) }))
    this.#answers.show(times, byTier((minute, tier) => (minute.answers[tier] || 0) / 60))
    this.#latency.show(times, byTier((minute, tier) => minute.seconds[tier]?.p95 ?? null).filter(({ values }) => values.some((value) => value !== null)))
    this.#queued.show(times, [{ name: 'waiting', colour: 'tier-other0', values: whole.map((minute) => minute.queued) }])
    const names = [...new Set(whole.flatMap((minute) => Object.keys(minute.breakers)))]
    fill(this.#breakers, names, (name) => name, (name) => make('div', {}, make('span', {}, serverName(name)), make('span', { class: 'row' })),
      (row, name) => put(/** @type {HTMLElement} */ (row.lastElementChild), stateRow(whole.map((minute) => minute.breakers[name] || ''), LEVELS), hidden(whole, name)))
  }
}

/**
 * The same for who does not see it: how many minutes it was in which state.
 *
 * @param {Minute[]} minutes
 * @param {string} name
 */
function hidden(minutes, name) {
  /** @type {Record<string, number>} */
  const counts = {}
  for (const { breakers } of minutes) if (breakers[name]) counts[breakers[name]] = (counts[breakers[name]] || 0) + 1
  return make('span', { class: 'unseen' }, Object.entries(counts).map(([state, n]) => `${state.replace('_', ' ')} ${n} min`).join(', '))
}
