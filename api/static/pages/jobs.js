// @ts-check
/** The list of jobs. */

import { make } from '../core/dom.js'
import { to } from '../core/router.js'
import { choice, labelled } from '../parts/forms.js'
import { COLUMNS, makeRow, showRow } from '../parts/jobs.js'
import { listView } from '../parts/listing.js'

const STATUSES = ['queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired']

/** @param {import('../core/types.js').Where} where */
export function jobs({ query }) {
  const status = choice('status', [['', 'any'], .../** @type {[string, string][]} */ (STATUSES.map((each) => [each, each]))])
  const search = make('input', { name: 'q', type: 'search', placeholder: 'part of an id, or of metadata' })
  const tier = make('input', { name: 'tier', size: 8, placeholder: 'gpu', autocomplete: 'off' })
  const model = make('input', { name: 'model', size: 14, autocomplete: 'off' })
  return listView({
    page: 'jobs', path: 'v1/jobs', title: 'Jobs', empty: 'There is no job yet.', columns: COLUMNS,
    fields: [labelled('Search', search), labelled('Status', status), labelled('Tier', tier), labelled('Model', model)],
    actions: [make('a', { class: 'button', href: to('playground') }, 'New request')],
    nameOf: (job) => job.id, create: (/** @type {import('../core/types.js').Job} */ job) => makeRow(job, true), update: showRow,
  }, query)
}
