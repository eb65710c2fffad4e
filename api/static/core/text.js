// @ts-check
/** Numbers, times and names as people read them. */

export const NONE = '–'
/** @type {Record<string, string>} */
const NAMES = { max_gpu: 'GPU', ollama_cpu: 'CPU', redis_cache: 'Cache' } // of other tiers: tier_h100

/** @param {number | null | undefined} n */
export const number = (n) => (n === null || n === undefined ? NONE : n.toLocaleString('en'))

/** @param {Date} date */
export const clock = (date) => date.toLocaleTimeString('en', { hourCycle: 'h23' })

/** @param {number | null | undefined} seconds since the epoch */
export const clockOf = (seconds) => (seconds ? clock(new Date(seconds * 1000)) : NONE)

/**
 * The time of today, or the day and the time.
 *
 * @param {number | null | undefined} seconds since the epoch
 */
export function moment(seconds) {
  if (!seconds) return NONE
  const date = new Date(seconds * 1000)
  const day = date.toLocaleDateString('en', { month: 'short', day: 'numeric' })
  return date.toDateString() === new Date().toDateString() ? clock(date) : `${day}, ${clock(date)}`
}

/** @param {number} s seconds that something will take */
export const lasting = (s) => (s < 90 ? `${Math.ceil(s)}\u00a0s` : s < 5400 ? `${Math.round(s / 60)}\u00a0min` : `${(s / 3600).toFixed(1)}\u00a0h`)

/** @param {number | null | undefined} s seconds that something took */
export const took = (s) => (s === null || s === undefined ? NONE : s < 10 ? `${number(Math.round(s * 1000))} ms` : s < 90 ? `${s.toFixed(1)} s` : lasting(s))

/** @param {number | null | undefined} ms */
export const milliseconds = (ms) => (ms === null || ms === undefined ? NONE : `${number(Math.round(ms))} ms`)

/** @param {number} n */
export function bytes(n) {
  const units = ['bytes', 'kB', 'MB', 'GB']
  let place = 0
  while (n >= 1000 && place < units.length - 1) [n, place] = [n / 1000, place + 1]
  return `${n >= 100 || !place ? Math.round(n) : n.toFixed(1)} ${units[place]}`
}

/**
 * @param {number} n
 * @param {string} what
 */
export const several = (n, what) => `${number(n)} ${what}${n === 1 ? '' : 's'}`

/**
 * @param {number} jobs
 * @param {number} lines
 */
export const counted = (jobs, lines) => [lines ? several(lines, 'line') : '', jobs ? several(jobs, 'job') : ''].filter(Boolean).join(' and ')

/**
 * The name of a model server by its breaker's: of several servers the second is max_gpu:2.
 *
 * @param {string} name
 */
export function serverName(name) {
  const [first, place] = name.split(':')
  return [NAMES[first] || first.replace(/^tier_/, ''), place].filter(Boolean).join(' ')
}

/** @param {string} word a status or a verdict */
export const plain = (word) => word.replaceAll('_', ' ')

/**
 * @param {number | null} perSecond
 * @param {string} what
 * @param {number} window seconds in which it was counted
 */
export function pace(perSecond, what, window) {
  if (perSecond === null) return `${what}: counting …`
  if (perSecond === 0) return `no ${what} in ${window} s`
  return perSecond >= 0.95 ? `${number(Math.round(perSecond * 10) / 10)} ${what} a second` : `${number(Math.ceil(perSecond * 60))} ${what} a minute`
}

const KNOWN = ['gpu', 'cpu', 'cache', 'degraded']

/**
 * The class of a tier's colour.
 *
 * @param {string} tier
 * @param {string[]} [others] tiers by other names, in their order
 */
export const colour = (tier, others = []) => (KNOWN.includes(tier) ? `tier-${tier}` : `tier-other${Math.max(0, others.filter((name) => !KNOWN.includes(name)).indexOf(tier)) % 3}`)
