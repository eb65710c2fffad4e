// @ts-check
/** The list of files: inputs and results of batches. */

import { make, tell } from '../core/dom.js'
import { ask, download, reason } from '../core/http.js'
import { to } from '../core/router.js'
import { bytes, moment, plain } from '../core/text.js'
import { confirmed } from '../parts/confirm.js'
import { choice, labelled } from '../parts/forms.js'
import { shownId } from '../parts/ids.js'
import { listView } from '../parts/listing.js'

/** @typedef {import('../core/types.js').StoredFile} StoredFile */

/**
 * @param {import('../core/types.js').Where} where
 * @returns {import('../core/types.js').View}
 */
export function files({ query }) {
  const purpose = choice('purpose', [['', 'any'], ['batch', 'input of batches'], ['batch_output', 'results of batches']])
  /** @type {import('../core/types.js').View} */
  const view = listView({
    page: 'files', path: 'v1/files', title: 'Files', empty: 'There is no file yet.',
    columns: [['name'], ['size', 'number'], ['purpose', 'model'], ['created', 'model'], ['kept until', 'model'], ['do']],
    fields: [labelled('Purpose', purpose)], actions: [make('a', { class: 'button', href: to('batches', 'new') }, 'Upload')],
    nameOf: (file) => file.id, create: (/** @type {StoredFile} */ file) => makeRow(file, () => view.look?.()), update: () => {},
  }, query)
  return view
}

/**
 * @param {StoredFile} file
 * @param {() => void} changed
 */
function makeRow(file, changed) {
  const save = make('button', { type: 'button', 'aria-label': `Download ${file.id}` }, 'Download')
  save.addEventListener('click', () => download(file.id, file.filename).catch((error) => tell(`No download: ${reason(error)}`, true)))
  const remove = make('button', { type: 'button', class: 'danger', 'aria-label': `Delete ${file.id}` }, 'Delete')
  remove.addEventListener('click', () => deleteFile(file, changed))
  const use = file.purpose === 'batch' ? make('a', { class: 'button', href: to('batches', 'new', { file: file.id }) }, 'Start a batch') : null
  return make('tr', {}, make('td', { class: 'name' }, file.filename, make('div', { class: 'dim' }, shownId(file.id))), make('td', { class: 'number' }, bytes(file.bytes)),
    make('td', { class: 'model' }, plain(file.purpose)), make('td', { class: 'model' }, moment(file.created_at)), make('td', { class: 'model' }, moment(file.expires_at)),
    make('td', {}, make('span', { class: 'actions' }, use, save, remove)))
}

/**
 * @param {StoredFile} file
 * @param {() => void} changed
 */
async function deleteFile(file, changed) {
  if (!await confirmed(`Delete ${file.filename} (${file.id})? It cannot be brought back.`, 'Delete the file')) return
  try {
    await ask(`v1/files/${encodeURIComponent(file.id)}`, 'DELETE')
    tell(`${file.filename} is deleted.`)
  } catch (error) { tell(`Not deleted: ${reason(error)}`, true) }
  changed()
}
