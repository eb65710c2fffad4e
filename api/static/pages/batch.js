// @ts-check
/** A batch: how far it is, who answered its lines, which failed, and what was answered. */

import { fill, make, part, say, tell } from '../core/dom.js'
import { ask, download, reason } from '../core/http.js'
import { LOOK_MS } from '../core/loop.js'
import { go, to } from '../core/router.js'
import { NONE, colour, moment, number, plain, took } from '../core/text.js'
import { ENDED, doneOf, modelsOf, paceOf, showBar, stateOf } from '../parts/batches.js'
import { Chart } from '../parts/chart.js'
import { confirmed } from '../parts/confirm.js'
import { showFacts } from '../parts/facts.js'
import { shownId } from '../parts/ids.js'
import { answersOf, errorsOf } from '../parts/lines.js'
import { table } from '../parts/listing.js'

/** @typedef {import('../core/types.js').Batch} Batch */

/**
 * @param {import('../core/types.js').Where} where
 * @returns {import('../core/types.js').View}
 */
export function batch({ id }) {
  const path = `v1/batches/${encodeURIComponent(id)}`, page = build(id, path)

  async function look() {
    const b = await ask(path)
    showBatch(page, b)
    await Promise.all([lookBack(page, path), page.errors.look(b), page.answers.look(b)])
    return ENDED.includes(b.status) ? null : LOOK_MS
  }

  page.cancel.addEventListener('click', async () => {
    if (!await confirmed('Cancel this batch? What it has answered is kept.', 'Cancel the batch')) return
    await act('The batch is not cancelled', async () => {
      await ask(`${path}/cancel`, 'POST')
      tell('The batch is being cancelled.')
      showBatch(page, await ask(path))
    })
  })
  page.retry.addEventListener('click', () => act('No new batch', async () => {
    const next = await ask(`${path}/retry`, 'POST')
    go(to('batches', next.id))
  }))
  return { title: `Batch …${id.slice(-6)}`, element: page.element, look }
}

/**
 * @param {string} failure
 * @param {() => Promise<void>} action
 */
async function act(failure, action) {
  try {
    await action()
  } catch (error) { tell(`${failure}: ${reason(error)}`, true) }
}

/** @typedef {ReturnType<typeof build>} Shown */

/**
 * @param {string} id
 * @param {string} path
 */
function build(id, path) {
  const cancel = make('button', { type: 'button', class: 'danger', hidden: true }, 'Cancel')
  const retry = make('button', { type: 'button', hidden: true }, 'Retry what failed, as a new batch')
  const tiers = table('Lines by tier', [['tier'], ['lines', 'number'], ['share', 'number'], ['verdict'], ['models']])
  const chart = new Chart('Lines a second', (n) => (n === null ? NONE : number(Math.round(n * 10) / 10)), false, 'at the end')
  const errors = errorsOf(path), answers = answersOf(path)
  const element = make('article', { class: 'batch' },
    make('div', { class: 'top' }, make('h2', { tabindex: -1 }, 'Batch'), make('span', { class: 'actions' }, retry, cancel)),
    make('p', {}, shownId(id)), make('p', { class: 'state mark', role: 'status' }),
    make('progress', { 'aria-label': 'lines done' }), make('p', { class: 'pace dim' }),
    make('p', { class: 'actions downloads' }),
    make('dl', { class: 'card facts' }),
    make('section', { 'aria-labelledby': 'h-lines' }, make('h3', { id: 'h-lines' }, 'Lines by tier and verdict'), tiers.element),
    make('div', { class: 'charts' }, chart.element), errors.element, answers.element)
  return { id, element, cancel, retry, tiers: tiers.rows, chart, errors, answers }
}

/**
 * @param {Shown} page
 * @param {Batch} b
 */
function showBatch(page, b) {
  const { element } = page, ended = ENDED.includes(b.status), { failed, total } = b.request_counts
  const level = b.status === 'completed' ? (failed ? 'warn' : 'good') : ended ? 'bad' : 'warn'
  part(element, 'state').className = `state mark ${level}`
  say(part(element, 'state'), stateOf(b))
  showBar(/** @type {HTMLProgressElement} */ (element.querySelector('progress')), b)
  say(part(element, 'pace'), b.status === 'in_progress' ? paceOf(b).filter(Boolean).join(' · ') : '')
  page.cancel.hidden = ended || b.status === 'cancelling'
  page.retry.hidden = !ended || !total || !(failed + (b.fallthrough.tiers?.degraded || 0))
  showFacts(part(element, 'facts'), factsOf(b))
  showTiers(page.tiers, b)
  showDownloads(part(element, 'downloads'), b)
}

/**
 * @param {Batch} b
 * @returns {Record<string, string | Node | null>}
 */
function factsOf(b) {
  const end = b.completed_at || b.failed_at || b.expired_at || b.cancelled_at, { fallthrough_retry_of: old, ...labels } = b.metadata || {}
  return {
    'created': moment(b.created_at), 'ended': end ? moment(end) : null, 'took': end ? took(end - b.created_at) : null,
    'ends at the latest': end || !b.expires_at ? null : moment(b.expires_at),
    'failed lines': number(b.request_counts.failed), 'model asked for': b.model, 'endpoint': b.endpoint,
    'tokens of the prompts': b.usage && number(b.usage.input_tokens), 'tokens of the answers': b.usage && number(b.usage.output_tokens),
    'retries': old ? make('a', { href: to('batches', old) }, `…${old.slice(-6)}`) : null,
    ...Object.fromEntries(Object.entries(labels).map(([name, value]) => [`metadata: ${name}`, value])),
  }
}

/**
 * @param {HTMLElement} rows
 * @param {Batch} b
 */
function showTiers(rows, b) {
  const { total } = b.request_counts, waiting = ENDED.includes(b.status) ? 0 : total - doneOf(b)
  /** @type {[string, string, number][]} tier, verdict, lines */
  const counts = Object.entries(b.fallthrough.outcomes || {}).flatMap(([tier, verdicts]) => Object.entries(verdicts).map(([verdict, n]) => /** @type {[string, string, number]} */ ([tier, verdict, n])))
  if (waiting) counts.push(['-', 'waiting', waiting])
  fill(rows, counts.filter(([, , n]) => n), ([tier, verdict]) => `${tier} ${verdict}`,
    ([tier]) => make('tr', {}, make('th', { scope: 'row' }, make('span', { class: `dot ${tier === '-' ? '' : colour(tier)}` }, tier === '-' ? 'none' : tier)), ...['number', 'number', null, 'models'].map((kind) => make('td', { class: kind }))),
    (row, [tier, verdict, n]) => {
      const [, lines, share, what, models] = row.children
      say(lines, number(n))
      say(share, total ? `${((n / total) * 100).toFixed(1)} %` : '')
      say(what, plain(verdict))
      what.className = verdict === 'failed' ? 'bad' : ''
      say(models, verdict === 'succeeded' ? modelsOf(b, tier, n) : '')
    })
}

/**
 * @param {HTMLElement} place
 * @param {Batch} b
 */
function showDownloads(place, b) {
  const files = [['Download the answers', b.output_file_id, 'output'], ['Download the errors', b.error_file_id, 'errors'], ['Download the input', b.input_file_id, 'input']]
  fill(place, files.filter(([, id]) => id), ([, id]) => id || '', ([text, id, kind]) => make('button', {
    type: 'button', onclick: () => act('No download', () => download(id || '', `${b.id}_${kind}.jsonl`)),
  }, text))
}

/**
 * Shows the rate over time; the batch is shown without, if it cannot be told.
 *
 * @param {Shown} page
 * @param {string} path
 */
async function lookBack(page, path) {
  const history = await ask(`${path}/history`).catch(() => null)
  showHistory(page.chart, history?.buckets || [])
}

/**
 * @param {Chart} chart
 * @param {import('../core/types.js').Bucket[]} buckets
 */
function showHistory(chart, buckets) {
  // Lines count when their slice has ended: one slice says nothing of a rate.
  const told = buckets.filter(({ lines }) => lines).length > 1
  chart.element.hidden = !told
  if (!told) return
  chart.show(buckets.map(({ at }) => at), [{ name: 'lines', colour: 'tier-other0', values: buckets.map(({ lines, seconds }) => lines / seconds) }])
}
