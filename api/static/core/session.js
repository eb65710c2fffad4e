// @ts-check
/** Who looks: the API key, which this tab keeps until it is closed, and whether it is an admin's. */

export const session = {
  key: sessionStorage.getItem('key') || '',
  admin: true, // until told otherwise
  /** @type {string | null | undefined} where Flower is; undefined: nobody has asked */
  flower: undefined,
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
