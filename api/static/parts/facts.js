// @ts-check
/** A list of names and values. */

import { fill, make, say } from '../core/dom.js'

/**
 * Shows names and values; a value that is null is left out.
 *
 * @param {HTMLElement} list a dl
 * @param {Record<string, string | Node | null>} facts
 */
export function showFacts(list, facts) {
  const given = Object.entries(facts).filter(([, value]) => value !== null && value !== '')
  fill(list, given, ([name]) => name,
    ([name]) => make('div', {}, make('dt', {}, name), make('dd')),
    (group, [, value]) => {
      const place = /** @type {HTMLElement} */ (group.lastElementChild)
      if (typeof value === 'string') say(place, value)
      else if (value && !place.hasChildNodes()) place.append(value)
    })
}
