// @ts-check
/** Rows of jobs. A job's prompt, answer and metadata are its owner's: none of them is shown here. */

import { make, say } from '../core/dom.js'
import { to } from '../core/router.js'
import { clockOf, milliseconds, moment } from '../core/text.js'
import { rowId } from './ids.js'

/** @typedef {import('../core/types.js').Job} Job */

/** @type {[string, string?][]} */
export const COLUMNS = [['time'], ['status'], ['tier'], ['took', 'number'], ['model', 'model'], ['job']]

/**
 * @param {Job} job
 * @param {boolean} [dated]
 */
export function makeRow(job, dated = false) {
  const time = dated ? moment(job.created_at) : clockOf(job.created_at)
  return make('tr', {}, make('td', {}, time), make('td'), make('td'), make('td', { class: 'number' }),
    make('td', { class: 'model' }), rowId(job.id, to('jobs', job.id)))
}

/**
 * @param {HTMLElement} row
 * @param {Job} job
 */
export function showRow(row, job) {
  const [, status, tier, took, model] = row.children
  say(status, job.status)
  status.className = job.status === 'failed' || job.status === 'expired' ? 'bad' : ''
  say(tier, job.tier_used || '')
  tier.className = job.degraded ? 'warn' : ''
  say(took, job.finished_at ? milliseconds((job.finished_at - job.created_at) * 1000) : '')
  say(model, job.model || '')
}
