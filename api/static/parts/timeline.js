// @ts-check
/** A job's way through the tiers: when it waited, who was asked, for how long, and what came of it. */

import { make } from '../core/dom.js'
import { NONE, colour, plain, took } from '../core/text.js'

/** @typedef {import('../core/types.js').Job} Job */
/** @typedef {{ title: string, from: number, to: number, kind: string, note: string }} Step seconds since the job was created */

/** @type {Record<string, string>} */
const VERDICTS = {
  answered: 'answered', failure: 'failed', saturated: 'was busy', rejected: 'was not asked: its breaker is open',
  refused: 'refused the request', misconfigured: 'refused our key or path', expired: 'took too long', cancelled: 'was cancelled',
}
const FINAL = ['succeeded', 'failed', 'cancelled', 'expired']

/** @param {import('../core/types.js').Attempt} attempt */
const lasted = (attempt) => (attempt.milliseconds || 0) / 1000

/**
 * When the tries began, in seconds since the job was created. Those of which nobody noted it lie
 * before the end, one after the other.
 *
 * @param {Job} job
 * @param {number} end
 */
function beginnings(job, end) {
  let next = end
  /** @type {number[]} */
  const began = []
  for (const attempt of [...job.attempts].reverse()) {
    next = attempt.began ? attempt.began - job.created_at : next - lasted(attempt)
    began.unshift(Math.max(0, next))
  }
  return began
}

/**
 * @param {Job} job
 * @param {number} now epoch seconds
 * @returns {Step[]}
 */
export function stepsOf(job, now) {
  const end = Math.max(0.001, (job.finished_at ?? now) - job.created_at), began = beginnings(job, end)
  const first = began[0] ?? (job.started_at === null ? end : job.started_at - job.created_at)
  const steps = [{ title: 'Queued', from: 0, to: Math.min(first, end), kind: 'waited', note: '' }]
  job.attempts.forEach((attempt, n) => {
    const told = [attempt.status ? `HTTP ${attempt.status}` : '', attempt.detail && !attempt.detail.includes(`HTTP ${attempt.status}`) ? attempt.detail : ''].filter(Boolean).join(', ')
    const server = attempt.endpoint ? ` server ${attempt.endpoint}` : ''
    const verdict = VERDICTS[attempt.verdict] || plain(attempt.verdict)
    const kind = attempt.verdict === 'answered' ? colour(attempt.tier) : 'bad'
    steps.push({ title: `${attempt.tier}${server} ${verdict}`, from: began[n], to: Math.min(end, began[n] + lasted(attempt)), kind, note: told })
  })
  const last = job.attempts[job.attempts.length - 1]
  if (job.first_token_at) {
    const at = job.first_token_at - job.created_at
    steps.push({ title: 'First words shown', from: at, to: at, kind: 'waited', note: '' })
  }
  if (job.degraded) steps.push({ title: 'Degraded: no tier answered, the configured message did', from: end, to: end, kind: 'tier-degraded', note: '' })
  else if (!FINAL.includes(job.status)) steps.push({ title: job.status === 'running' ? 'Being answered' : 'Waits', from: Math.min(end, steps[steps.length - 1].to), to: end, kind: 'waited', note: '' })
  else if (job.tier_used && last?.verdict !== 'answered') steps.push({ title: `${job.tier_used} answered`, from: end, to: end, kind: colour(job.tier_used), note: '' })
  return steps
}

/**
 * @param {Job} job
 * @param {number} now epoch seconds
 * @returns {HTMLElement[]} items of an ordered list
 */
export function timeline(job, now) {
  const steps = stepsOf(job, now), end = Math.max(0.001, ...steps.map((step) => step.to))
  return steps.map((step) => {
    const bar = make('span', { class: `bar ${step.kind}` })
    bar.style.marginInlineStart = `${(step.from / end) * 99}%`
    bar.style.inlineSize = `${Math.max(0.7, ((step.to - step.from) / end) * 99)}%`
    const length = step.to > step.from ? took(step.to - step.from) : NONE
    return make('li', {},
      make('span', { class: 'step' }, step.title), make('span', { class: 'dim' }, `${length}, from ${took(step.from)}`),
      make('span', { class: 'track', 'aria-hidden': 'true' }, bar), step.note ? make('span', { class: 'dim detail' }, step.note) : null)
  })
}
