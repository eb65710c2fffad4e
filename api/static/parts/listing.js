// @ts-check
/** A list of records: filters, a table, and pages of it. The address says which is shown. */

import { fill, make, say } from '../core/dom.js'
import { ask, withQuery } from '../core/http.js'
import { go, to } from '../core/router.js'
import { valuesOf } from './forms.js'

/**
 * @template R
 * @typedef {object} Listing
 * @property {string} page of this site, as in jobs
 * @property {string} path of the API
 * @property {string} title
 * @property {string} empty said where there is none
 * @property {[string, string?][]} columns title and class
 * @property {HTMLElement[]} fields that filter
 * @property {HTMLElement[]} [actions] at the top
 * @property {(record: R) => string} nameOf
 * @property {(record: R) => HTMLElement} create a row
 * @property {(row: HTMLElement, record: R) => void} update
 */

export const PAGE = 50

/**
 * A table that can be scrolled sideways, also with the keyboard.
 *
 * @param {string} title
 * @param {[string, string?][]} columns
 */
export function table(title, columns) {
  const rows = make('tbody')
  const heads = columns.map(([name, kind]) => make('th', { scope: 'col', class: kind || null }, name))
  const element = make('div', { class: 'wide', tabindex: 0, role: 'group', 'aria-label': title },
    make('table', { 'aria-label': title }, make('thead', {}, make('tr', {}, ...heads)), rows))
  return { element, rows }
}

/**
 * @template {{ id?: string }} R
 * @param {Listing<R>} listing
 * @param {URLSearchParams} query
 * @returns {import('../core/types.js').View}
 */
export function listView(listing, query) {
  const { element: shown, rows } = table(listing.title, listing.columns)
  const note = make('p', { class: 'dim', role: 'status' }), pager = make('p', { class: 'pager' })
  const filters = filterForm(listing, query)
  const given = Object.fromEntries(query)

  async function look() {
    const page = await ask(withQuery(listing.path, { limit: PAGE, ...given }))
    fill(rows, page.data, listing.nameOf, listing.create, listing.update)
    const filtered = Object.keys(given).some((name) => name !== 'after')
    shown.hidden = !page.data.length
    say(note, page.data.length ? '' : filtered || given.after ? 'Nothing here fits.' : listing.empty)
    showPager(page)
  }

  /** @param {import('../core/types.js').List<R>} page */
  const next = (page) => (page.next === undefined ? page.has_more && page.last_id : page.next)

  /** @param {import('../core/types.js').List<R>} page */
  function showPager(page) {
    const links = [['Newest', given.after ? { ...given, after: '' } : null], ['Older', next(page) ? { ...given, after: next(page) } : null]]
    fill(pager, /** @type {[string, any][]} */ (links).filter(([, target]) => target), ([name]) => name,
      ([name]) => make('a', { class: 'button' }, name), (link, [, target]) => link.setAttribute('href', to(listing.page, '', target)))
  }

  const head = make('div', { class: 'top' }, make('h2', { tabindex: -1 }, listing.title), make('span', { class: 'actions' }, ...(listing.actions || [])))
  return { title: listing.title, element: make('div', {}, head, filters, shown, note, pager), look }
}

/**
 * @param {Listing<any>} listing
 * @param {URLSearchParams} query
 */
function filterForm(listing, query) {
  const form = make('form', { class: 'filters', role: 'search' }, ...listing.fields, make('button', {}, 'Filter'))
  for (const field of form.querySelectorAll('select, input')) {
    if (!(field instanceof HTMLSelectElement || field instanceof HTMLInputElement)) continue
    field.value = query.get(field.name) || ''
    field.addEventListener('change', apply)
  }
  function apply() { go(to(listing.page, '', valuesOf(form))) }
  form.addEventListener('submit', (event) => {
    event.preventDefault()
    apply()
  })
  return form
}
