// @ts-check
/** Rates: from what was counted at each look of the last seconds. */

export const WINDOW_SECONDS = 10

/** @type {Map<string, [number, number][]>} */
const samples = new Map()

/**
 * Notes a count; returns how much it rose in a second of late, null until that can be said.
 *
 * @param {string} name
 * @param {number} count
 * @returns {number | null}
 */
export function rate(name, count) {
  const now = performance.now() / 1000
  const kept = (samples.get(name) || []).filter(([at, n]) => at > now - WINDOW_SECONDS && n <= count)
  kept.push([now, count])
  samples.set(name, kept)
  return kept.length > 1 ? (count - kept[0][1]) / (now - kept[0][0]) : null
}
