// @ts-check
/**
 * Charts over time, as SVG: lines, or areas that stand on one another. Pointing at one, or moving
 * with the arrow keys, says what the values of a minute are.
 */

import { fill, make, part, say, svg } from '../core/dom.js'
import { clockOf } from '../core/text.js'

const WIDTH = 600, HEIGHT = 120

/**
 * @typedef {{ name: string, colour: string, values: (number | null)[] }} Series
 */

export class Chart {
  #plot = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' })
  #cursor = svg('line', { class: 'cursor', y1: 0, y2: HEIGHT })
  /** @type {number[]} */
  #times = []
  /** @type {Series[]} */
  #series = []
  /** @type {number | null} */
  #at = null

  /**
   * @param {string} title
   * @param {(value: number | null) => string} format of a value
   * @param {boolean} [stacked]
   * @param {string} [last] what the last values are called
   */
  constructor(title, format, stacked = false, last = 'last minute') {
    this.title = title
    this.last = last
    this.format = format
    this.stacked = stacked
    const frame = make('div', {
      class: 'plot', tabindex: 0, role: 'img', 'aria-label': title,
      onpointermove: (event) => this.#point(event), onpointerleave: () => this.#read(null),
      onkeydown: (event) => this.#step(event), onblur: () => this.#read(null),
    })
    frame.append(this.#plot)
    this.element = make('figure', { class: 'card chart' },
      make('figcaption', {}, make('h3', {}, title), make('span', { class: 'most dim' })),
      frame, make('p', { class: 'span dim' }, make('span', { class: 'from' }), make('span', { class: 'to' })),
      make('ul', { class: 'legend' }), make('p', { class: 'moment unseen', role: 'status' }))
  }

  /**
   * @param {number[]} times epoch seconds, one of each value
   * @param {Series[]} series
   */
  show(times, series) {
    this.#times = times
    this.#series = series
    const most = this.#most()
    say(part(this.element, 'most'), most ? `up to ${this.format(most)}` : 'nothing yet')
    say(part(this.element, 'from'), clockOf(times[0]).slice(0, 5))
    say(part(this.element, 'to'), clockOf(times[times.length - 1]).slice(0, 5))
    this.#draw(most || 1)
    this.#read(this.#at)
  }

  #most() {
    const sums = this.#times.map((_, n) => this.#series.map(({ values }) => values[n] || 0))
    return Math.max(0, ...sums.map((values) => (this.stacked ? values.reduce((a, b) => a + b, 0) : Math.max(0, ...values))))
  }

  /** @param {number} most */
  #draw(most) {
    const x = (/** @type {number} */ n) => (n * WIDTH) / Math.max(1, this.#times.length - 1)
    const y = (/** @type {number} */ value) => HEIGHT - 2 - (value / most) * (HEIGHT - 6)
    const below = this.#times.map(() => 0)
    const paths = this.#series.map(({ colour, values }) => {
      if (!this.stacked) return svg('path', { class: `line ${colour}`, d: lineOf(values, x, y) })
      const base = [...below]
      values.forEach((value, n) => (below[n] += value || 0))
      return svg('path', { class: `area ${colour}`, d: areaOf(base, below, x, y) })
    })
    this.#plot.replaceChildren(...paths, this.#cursor)
  }

  /** @param {PointerEvent} event */
  #point(event) {
    const box = this.#plot.getBoundingClientRect()
    this.#read(Math.round(((event.clientX - box.left) / box.width) * (this.#times.length - 1)))
  }

  /** @param {KeyboardEvent} event */
  #step(event) {
    const last = this.#times.length - 1
    /** @type {Record<string, number>} */
    const to = { ArrowLeft: (this.#at ?? last + 1) - 1, ArrowRight: (this.#at ?? -1) + 1, Home: 0, End: last }
    if (!(event.key in to)) return
    event.preventDefault()
    this.#read(to[event.key])
    say(part(this.element, 'moment'), [...part(this.element, 'legend').children].map((item) => item.textContent).join(', '))
  }

  /** @param {number | null} at which minute's values are told; null: the last one's */
  #read(at) {
    const last = this.#times.length - 1
    this.#at = at === null ? null : Math.min(last, Math.max(0, at))
    const n = this.#at ?? last
    const x = (n * WIDTH) / Math.max(1, last)
    for (const end of ['x1', 'x2']) this.#cursor.setAttribute(end, String(this.#at === null ? -9 : x))
    const items = [{ name: this.#at === null ? this.last : clockOf(this.#times[n]).slice(0, 5), colour: 'when', values: [] }, ...this.#series]
    fill(part(this.element, 'legend'), items, ({ colour, name }) => (colour === 'when' ? colour : name),
      ({ colour }) => make('li', { class: colour }),
      (item, { name, colour, values }) => say(item, colour === 'when' ? name : `${name} ${this.format(values[n] ?? null)}`))
  }
}

/**
 * @param {(number | null)[]} values
 * @param {(n: number) => number} x
 * @param {(value: number) => number} y
 */
function lineOf(values, x, y) {
  let drawn = '', pen = false
  values.forEach((value, n) => {
    if (value !== null) drawn += `${pen ? 'L' : 'M'}${x(n).toFixed(1)} ${y(value).toFixed(1)}${pen ? '' : 'h.01'}`
    pen = value !== null
  })
  return drawn
}

/**
 * @param {number[]} low
 * @param {number[]} high
 * @param {(n: number) => number} x
 * @param {(value: number) => number} y
 */
function areaOf(low, high, x, y) {
  const point = (/** @type {number} */ value, /** @type {number} */ n) => `${x(n).toFixed(1)} ${y(value).toFixed(1)}`
  const back = low.map(point).reverse()
  return `M${high.map(point).join('L')}L${back.join('L')}Z`
}

/**
 * A row of states over time; the height of each says it, too.
 *
 * @param {string[]} states one of each minute, '' where nothing is known
 * @param {Record<string, string>} levels state -> good, warn, bad
 */
export function stateRow(states, levels) {
  /** @type {Record<string, number>} */
  const heights = { good: 3, warn: 8, bad: 14 }
  const drawing = svg('svg', { viewBox: `0 0 ${Math.max(1, states.length)} 14`, preserveAspectRatio: 'none', class: 'states', 'aria-hidden': 'true' })
  for (let from = 0, to = 0; from < states.length; from = to) {
    while (to < states.length && states[to] === states[from]) to += 1
    const level = levels[states[from]]
    if (level) drawing.append(svg('rect', { x: from, width: to - from, y: 14 - heights[level], height: heights[level], class: level }))
  }
  return drawing
}
