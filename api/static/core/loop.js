// @ts-check
/** Looks again and again at what a page shows: every two seconds, and later while the API is away. */

import { Refused, asked } from './http.js'

export const LOOK_MS = 2000
const LONGEST_WAIT_MS = 10_000
const LATER = new Set([408, 429]) // refusals that another try may not meet

/** @typedef {import('./types.js').View} View */
/**
 * @typedef {object} Listener
 * @property {(view: View) => void} seen
 * @property {() => void} keyWanted
 * @property {(error: unknown) => void} lost the API is away, or cannot tell
 * @property {(error: Refused) => void} refused to ask again would be no use
 */

export class Loop {
  #turn = 0
  #failures = 0
  /** @type {number | undefined} */
  #timer
  /** @type {View | null} */
  #view = null
  #dueAt = 0

  /** @param {Listener} listener */
  constructor(listener) {
    this.listener = listener
  }

  /** Seconds until the next look. */
  get left() {
    return Math.max(0, (this.#dueAt - performance.now()) / 1000)
  }

  /** @param {View} view */
  show(view) {
    this.stop()
    this.#view = view
    this.look()
  }

  stop() {
    this.#turn += 1
    clearTimeout(this.#timer)
    this.#view = null
  }

  /** Looks now. */
  async look() {
    const mine = ++this.#turn, view = this.#view
    clearTimeout(this.#timer)
    if (!view) return
    const before = asked.count
    let wait = null
    try {
      const told = await view.look?.()
      if (mine !== this.#turn) return
      this.#failures = 0
      this.listener.seen(view)
      wait = told === undefined ? LOOK_MS : told
    } catch (error) {
      if (mine !== this.#turn) return
      wait = this.#failed(error)
    }
    if (wait !== null) this.#again(wait, asked.count - before)
  }

  /**
   * @param {unknown} error
   * @returns {number | null}
   */
  #failed(error) {
    const status = error instanceof Refused ? error.status : 0
    if (status === 401) {
      this.listener.keyWanted()
      return null
    }
    if (error instanceof Refused && status >= 400 && status < 500 && !LATER.has(status)) {
      this.listener.refused(error)
      return null
    }
    this.#failures += 1
    this.listener.lost(error)
    const told = error instanceof Refused ? error.waitSeconds * 1000 : 0
    return told || Math.min(LOOK_MS * 2 ** (this.#failures - 1), LONGEST_WAIT_MS)
  }

  /**
   * @param {number} wait ms
   * @param {number} requests that a look takes
   */
  #again(wait, requests) {
    // Looking takes half of what a limited key may ask, at most; the rest is its owner's.
    const least = asked.limit && !this.#failures ? (requests * 60_000) / (asked.limit / 2) : 0
    const ms = Math.max(wait, least)
    this.#dueAt = performance.now() + ms
    if (!document.hidden) this.#timer = setTimeout(() => this.look(), ms)
  }
}
