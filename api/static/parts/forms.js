// @ts-check
/** Fields of forms, each with its label. */

import { make } from '../core/dom.js'

let count = 0

/**
 * A field under its label.
 *
 * @template {HTMLElement} E
 * @param {string} label
 * @param {E} field
 * @param {string} [hint]
 * @returns {HTMLElement}
 */
export function labelled(label, field, hint) {
  field.id ||= `field-${(count += 1)}`
  const about = hint ? make('span', { class: 'dim', id: `${field.id}-hint` }, hint) : null
  if (about) field.setAttribute('aria-describedby', about.id)
  return make('div', { class: 'field' }, make('label', { for: field.id }, label), field, about)
}

/**
 * @param {string} name
 * @param {[string, string][]} options value and text
 * @param {string} [chosen]
 */
export function choice(name, options, chosen = '') {
  return make('select', { name }, ...options.map(([value, text]) => make('option', { value, selected: value === chosen }, text)))
}

/**
 * The values of a form's fields, by their names.
 *
 * @param {HTMLFormElement} form
 * @returns {Record<string, string>}
 */
export function valuesOf(form) {
  const values = [...new FormData(form)].filter(([, value]) => typeof value === 'string')
  return Object.fromEntries(/** @type {[string, string][]} */ (values).map(([name, value]) => [name, value.trim()]))
}

/**
 * Shows what is wrong under a form, and reads it out.
 *
 * @param {string} id
 */
export const complaint = (id) => make('p', { class: 'bad', id, role: 'alert' })
