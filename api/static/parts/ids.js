// @ts-check
/** Ids: whole, and copied by a press. */

import { make, tell } from '../core/dom.js'

/**
 * @param {string} text
 * @returns {Promise<void>}
 */
async function copy(text) {
  // A browser keeps its clipboard from pages that came over plain HTTP from another machine.
  if (navigator.clipboard) return navigator.clipboard.writeText(text)
  const area = make('textarea', { class: 'unseen' })
  area.value = text
  document.body.append(area)
  area.select()
  const done = document.execCommand('copy')
  area.remove()
  if (!done) throw new Error('the browser does not let a page copy')
}

/**
 * @param {string} text
 * @param {string} [what] said in place of the text itself
 */
export function copyButton(text, what = text) {
  return make('button', {
    type: 'button', class: 'copy', 'aria-label': `Copy ${what}`, title: `Copy ${what}`,
    onclick: () => copy(text).then(() => tell(`Copied ${what}.`), (error) => tell(`Not copied: ${error.message}`, true)),
  })
}

/**
 * An id and what copies it; with a target, a link.
 *
 * @param {string} id
 * @param {string} [target]
 */
export function shownId(id, target) {
  const text = make('code', {}, id)
  return make('span', { class: 'id' }, target ? make('a', { href: target }, text) : text, copyButton(id))
}

/**
 * The same in a table: on a phone its end alone is shown.
 *
 * @param {string} id
 * @param {string} target
 */
export function rowId(id, target) {
  const link = make('a', { href: target, title: id }, make('span', { class: 'whole' }, id), make('span', { class: 'tail' }, `…${id.slice(-6)}`))
  return make('td', { class: 'id dim' }, link, copyButton(id))
}
