// @ts-check
/** How it stands, in one sentence. */

import { counted, serverName } from '../core/text.js'

/** @typedef {import('../core/types.js').Operations} Operations */
/** @typedef {import('../core/types.js').Breaker} Breaker */

/** @type {Record<string, [string, string]>} */
export const TROUBLES = {
  no_such_model: ['bad', 'does not have the model that it is asked for'],
  misconfigured: ['bad', 'refuses our key or path'],
  silent: ['warn', 'answers nothing, though it is asked'],
}
/** @type {Record<string, string>} */
export const BY_HAND = { open: 'kept out of service by hand', disabled: 'asked whatever happens: its breaker is disabled by hand' }

/** @param {Breaker} breaker */
export const stateOf = (breaker) => (breaker.held ? 'held' : breaker.state)

/**
 * @param {Operations} operations
 * @param {string} name
 */
export const troublesOf = ({ metrics }, name) => metrics.troubles[name] || []

/** @param {Operations} operations */
const modelsOf = ({ breakers }) => breakers.filter(([name]) => name !== 'redis_cache')

/**
 * The model servers that may be asked.
 *
 * @param {Operations} operations
 * @returns {string[]}
 */
export function able(operations) {
  const lacksModel = (/** @type {string} */ name) => troublesOf(operations, name).some(({ trouble }) => trouble === 'no_such_model')
  const may = modelsOf(operations).filter(([name, b]) => ['closed', 'half_open'].includes(stateOf(b)) && !lacksModel(name))
  return may.map(([name]) => serverName(name))
}

/** @param {import('../core/types.js').Work} work */
export const sum = (work) => work.running + work.waiting + work.parked

/**
 * The worst that there is to say, and how bad it is: good, warn or bad.
 *
 * @param {Operations} operations
 * @returns {[string, string]}
 */
export function glanceOf(operations) {
  const { metrics, breakers } = operations, models = modelsOf(operations), left = able(operations)
  if (metrics.workers === 0) return ['bad', 'No worker is running: jobs wait']
  if (!models.length) return ['bad', 'No model server is configured']
  if (!left.length) {
    const waits = counted(sum(metrics.unfinished.jobs), sum(metrics.unfinished.lines))
    return ['bad', waits ? `Waiting: no tier can answer, ${waits}` : 'No model server answers: the cache does, or an honest degraded answer']
  }
  const named = (/** @type {(b: Breaker) => boolean} */ fits) => breakers.filter(([, b]) => fits(b)).map(([name]) => serverName(name)).join(' and ')
  const answer = `; ${left.join(' and ')} ${left.length > 1 ? 'answer' : 'answers'}`
  const out = named((b) => ['open', 'held'].includes(stateOf(b)))
  if (out) return ['warn', `${out} out of service${answer}`]
  const probed = named((b) => stateOf(b) === 'half_open')
  if (probed) return ['warn', `${probed} being probed`]
  const [name, trouble] = models.map(([each]) => /** @type {const} */ ([each, troublesOf(operations, each)[0]?.trouble])).reverse().find(([, each]) => each) || []
  if (name && trouble) return [TROUBLES[trouble][0], `${serverName(name)} ${TROUBLES[trouble][1]}${trouble === 'silent' ? '' : answer}`]
  const disabled = named((b) => b.override === 'disabled')
  return disabled ? ['warn', `${disabled} ${BY_HAND.disabled}`] : ['good', 'All tiers in service']
}
