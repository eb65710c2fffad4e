// @ts-check
/** The overview: tiers, queues and workers, charts, batches, the latest jobs. */

import { fill, make, say } from '../core/dom.js'
import { Refused, ask } from '../core/http.js'
import { LOOK_MS } from '../core/loop.js'
import { session } from '../core/session.js'
import { counted, milliseconds, number } from '../core/text.js'
import { ENDED, makeCard, showCard } from '../parts/batches.js'
import { able, glanceOf, sum } from '../parts/glance.js'
import { History } from '../parts/history.js'
import { COLUMNS, makeRow, showRow } from '../parts/jobs.js'
import { countDown, showTiers } from '../parts/tiers.js'

const SHOWN_ENDED = 3 // batches

/** @typedef {import('../core/types.js').Operations} Operations */
/** @typedef {import('../core/types.js').Batch} Batch */

/** @returns {import('../core/types.js').View} */
export function overview() {
  const tiers = make('div', { class: 'cards', id: 'tiers' }), work = make('dl', { class: 'card', id: 'work' })
  const limited = make('p', { id: 'limited', hidden: true }, "This key is not an admin's (403): it sees its own jobs and batches, not tiers, breakers and queues.")
  const history = new History(), batches = batchSection(), jobs = jobSection()
  const operated = make('div', { id: 'operations' }, section('tiers', 'Tiers', tiers), section('work', 'Queues and workers', work), history.element)
  /** @type {Operations | null} */
  let operations = null

  async function look() {
    const newest = await ask('v1/jobs?limit=10') // alone and first: a missing key is told once
    const [list, seen] = await Promise.all([ask('v1/batches?limit=50'), session.admin ? seeOperations() : null])
    operations = seen
    operated.hidden = !operations
    limited.hidden = !!operations
    if (operations) {
      showTiers(tiers, operations, () => shown.look?.())
      showWork(work, operations)
      session.flower = operations.metrics.flower_url
      history.look()
    }
    batches.show(list.data, list.has_more)
    jobs.show(newest.data)
    return LOOK_MS
  }

  function headline() {
    const [level, text] = operations ? glanceOf(operations) : ['good', 'The API answers']
    return { level, text, title: level === 'good' ? '' : `(!) ${text}` }
  }

  const shown = { title: '', element: make('div', {}, limited, operated, batches.element, jobs.element), look, headline, tick: () => countDown(tiers) }
  return shown
}

/**
 * @param {string} id
 * @param {string} title
 * @param {...Node} content
 */
function section(id, title, ...content) {
  return make('section', { 'aria-labelledby': `h-${id}` }, make('h2', { id: `h-${id}` }, title), ...content)
}

/** @returns {Promise<Operations | null>} */
async function seeOperations() {
  try {
    const [b, m] = await Promise.all([ask('circuit-breakers'), ask('metrics')])
    /** @type {[string, import('../core/types.js').Breaker][]} */
    const breakers = Object.entries(b.circuit_breakers)
    return { breakers: breakers.filter(([, breaker]) => breaker.configured), metrics: m.metrics }
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 403) throw error
    session.admin = false
    return null
  }
}

/**
 * @param {HTMLElement} list
 * @param {Operations} operations
 */
function showWork(list, operations) {
  const m = operations.metrics, someAnswer = able(operations).length > 0
  // What a worker has in hand while no tier can answer waits for one.
  const stand = (/** @type {import('../core/types.js').Work} */ each) => (someAnswer ? each : { running: 0, waiting: 0, parked: sum(each) })
  const jobs = stand(m.unfinished.jobs), lines = stand(m.unfinished.lines)
  /** @type {Record<string, number | string>} */
  const told = {
    'workers': m.workers, 'jobs running': jobs.running, 'jobs waiting': jobs.waiting, 'lines running': lines.running, 'lines waiting': lines.waiting,
    'waiting for a tier': counted(jobs.parked, lines.parked) || 0, 'degraded answers': m.jobs.degraded?.succeeded || 0,
    'latency, median': milliseconds(m.p50_latency_ms), 'latency, p95': milliseconds(m.p95_latency_ms), 'streams running': m.streams_in_flight,
    'first token, median': milliseconds(m.p50_first_token_ms), 'first token, p95': milliseconds(m.p95_first_token_ms),
  }
  fill(list, Object.entries(told), ([name]) => name, ([name]) => make('div', {}, make('dt', {}, name), make('dd')), (group, [name, value]) => {
    const place = /** @type {HTMLElement} */ (group.lastElementChild)
    say(place, typeof value === 'string' ? value : number(value))
    place.className = name === 'workers' && value === 0 ? 'bad' : ''
  })
}

function batchSection() {
  const cards = make('div', { class: 'cards', id: 'batches' }), more = make('p', { class: 'dim', id: 'more-batches' })
  return {
    element: section('batches', 'Batches', cards, more),
    /**
     * @param {Batch[]} batches
     * @param {boolean} hasMore
     */
    show(batches, hasMore) {
      const running = batches.filter((b) => !ENDED.includes(b.status)), ended = batches.filter((b) => ENDED.includes(b.status))
      say(more, hasMore ? `of the newest ${batches.length}` : batches.length ? '' : 'none yet')
      fill(cards, [...running, ...ended.slice(0, SHOWN_ENDED)], (b) => b.id, makeCard, showCard)
    },
  }
}

function jobSection() {
  const rows = make('tbody', { id: 'jobs' }), none = make('p', { class: 'dim', id: 'no-jobs' }, 'none yet')
  const heads = COLUMNS.map(([name, kind]) => make('th', { scope: 'col', class: kind || null }, name))
  const wide = make('div', { class: 'wide', id: 'wide' }, make('table', { 'aria-labelledby': 'h-jobs' }, make('thead', {}, make('tr', {}, ...heads)), rows))
  return {
    element: section('jobs', 'Latest jobs', wide, none),
    /** @param {import('../core/types.js').Job[]} jobs */
    show(jobs) {
      none.hidden = jobs.length > 0
      wide.hidden = jobs.length === 0
      fill(rows, jobs, (job) => job.id, (job) => makeRow(job), showRow)
      const wider = wide.scrollWidth > wide.clientWidth // then arrow keys must reach it
      for (const [name, value] of Object.entries({ tabindex: '0', role: 'group', 'aria-labelledby': 'h-jobs' })) wider ? wide.setAttribute(name, value) : wide.removeAttribute(name)
    },
  }
}
