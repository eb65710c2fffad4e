// @ts-check
/**
 * Where one is: the part of the address after #, as in #/jobs/job_1 or #/jobs?status=failed. Paths
 * without # are the API's own (/jobs is a list of jobs, as JSON), and the server needs to know of
 * no page; under a proxy's path it stays the same.
 */

import { withQuery } from './http.js'

/** @returns {{ page: string, id: string, query: URLSearchParams }} */
export function place() {
  const [path, query] = location.hash.replace(/^#\/?/, '').split('?')
  const [page, ...rest] = path.split('/')
  return { page, id: readable(rest.join('/')), query: new URLSearchParams(query || '') }
}

/** @param {string} text */
function readable(text) {
  try {
    return decodeURIComponent(text)
  } catch {
    return text // of a % that escapes nothing
  }
}

/**
 * @param {string} page
 * @param {string} [id]
 * @param {Record<string, string | number | null | undefined>} [query]
 */
export const to = (page, id = '', query = {}) => withQuery(`#/${page}${id ? `/${encodeURIComponent(id)}` : ''}`, query)

/** @param {string} target of to() */
export function go(target) {
  location.hash = target
}
