// @ts-check
/** The list of batches. */

import { make, say } from '../core/dom.js'
import { to } from '../core/router.js'
import { moment, number, plain } from '../core/text.js'
import { doneOf, showBar } from '../parts/batches.js'
import { choice, labelled } from '../parts/forms.js'
import { rowId } from '../parts/ids.js'
import { listView } from '../parts/listing.js'

/** @typedef {import('../core/types.js').Batch} Batch */

const STATUSES = ['validating', 'in_progress', 'finalizing', 'completed', 'failed', 'expired', 'cancelling', 'cancelled']

/** @param {import('../core/types.js').Where} where */
export function batches({ query }) {
  const status = choice('status', [['', 'any'], .../** @type {[string, string][]} */ (STATUSES.map((each) => [each, plain(each)]))])
  const search = make('input', { name: 'q', type: 'search', placeholder: 'part of an id, or of metadata' })
  return listView({
    page: 'batches', path: 'v1/batches', title: 'Batches', empty: 'There is no batch yet.',
    columns: [['time'], ['status'], ['done', 'model'], ['lines', 'number'], ['failed', 'number'], ['model', 'model'], ['batch']],
    fields: [labelled('Search', search), labelled('Status', status)],
    actions: [make('a', { class: 'button', href: to('batches', 'new') }, 'New batch')],
    nameOf: (b) => b.id, create: makeRow, update: showRow,
  }, query)
}

/** @param {Batch} b */
function makeRow(b) {
  return make('tr', {}, make('td', {}, moment(b.created_at)), make('td'), make('td', { class: 'model' }, make('progress', { 'aria-label': `done of ${b.id}` })),
    make('td', { class: 'number' }), make('td', { class: 'number' }), make('td', { class: 'model' }), rowId(b.id, to('batches', b.id)))
}

/**
 * @param {HTMLElement} row
 * @param {Batch} b
 */
function showRow(row, b) {
  const [, status, , lines, failed, model] = row.children
  say(status, plain(b.status))
  status.className = b.status === 'failed' || b.status === 'expired' ? 'bad' : ''
  showBar(/** @type {HTMLProgressElement} */ (row.querySelector('progress')), b)
  say(lines, `${number(doneOf(b))} of ${number(b.request_counts.total)}`)
  say(failed, number(b.request_counts.failed))
  failed.className = `number ${b.request_counts.failed ? 'bad' : ''}`
  say(model, b.model || '')
}
