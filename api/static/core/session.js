// @ts-check
/** Who looks: the API key, which this tab keeps until it is closed, and whether it is an admin's. */

const kept = sessionStorage.getItem('key') || ''

/** What is wrong with the key that was kept; it is not sent. */
export const keptFault = faultOfKey(kept)

export const session = {
  key: keptFault ? '' : kept,
  admin: true, // until told otherwise
  /** @type {string | null | undefined} where Flower is; undefined: nobody has asked */
  flower: undefined,
}

/**
 * Says what keeps a text from being an API key: a header carries no such character, and no key has one.
 *
 * @param {string} text
 * @returns {string} empty if nothing does
 */
export function faultOfKey(text) {
  const odd = text.match(/[^!-~]/u)
  if (!odd) return ''
  const [character] = odd, code = `U+${/** @type {number} */ (character.codePointAt(0)).toString(16).toUpperCase().padStart(4, '0')}`
  const name = character === ' ' ? 'a blank' : /[\p{C}\p{M}\p{Z}]/u.test(character) ? `an invisible character (${code})` : `${character} (${code})`
  return `This is no API key: there is ${name} in it. A key has ASCII letters, digits and signs alone. Copy it again from where it was made, or type it.`
}

/** Keeps a key that was taken. */
export function keepKey() {
  if (session.key) sessionStorage.setItem('key', session.key)
}

export function forgetKey() {
  session.key = ''
  session.admin = true
  session.flower = undefined
  sessionStorage.removeItem('key')
}
