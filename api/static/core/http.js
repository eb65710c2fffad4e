// @ts-check
/** Asks the API. Paths are relative to the page's, so that a proxy may serve all of it under a path. */

import { session } from './session.js'

const PATIENCE_MS = 10_000

/** What the API refused, with its own words. */
export class Refused extends Error {
  /**
   * @param {number} status
   * @param {string} message
   * @param {number} [waitSeconds] after which to ask again; 0: it did not say
   */
  constructor(status, message, waitSeconds = 0) {
    super(message)
    this.status = status
    this.waitSeconds = waitSeconds
  }
}

/** The API does not answer, or the connection to it broke off. */
export class Away extends Error {}

/** What was asked so far, and how much this key may ask in a minute (0: as much as it likes). */
export const asked = { count: 0, limit: 0 }

/** @returns {Record<string, string>} */
const withKey = () => (session.key ? { authorization: `Bearer ${session.key}` } : {})

/**
 * Sends a request; returns the reply, or throws what was refused.
 *
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
export async function send(path, options = {}) {
  const headers = { ...withKey(), .../** @type {Record<string, string>} */ (options.headers) }
  asked.count += 1
  // Made first: what cannot be asked is a TypeError, too, and no outage.
  const request = new Request(path, { cache: 'no-store', ...options, headers })
  const reply = await fetch(request).catch((error) => {
    throw error instanceof TypeError ? new Away('the API does not answer') : error
  })
  asked.limit = Number(reply.headers.get('x-ratelimit-limit-requests')) || 0
  if (reply.ok) return reply
  const told = await reply.json().catch(() => null)
  throw new Refused(reply.status, told?.error?.message || `status ${reply.status}`, Number(reply.headers.get('retry-after')) || 0)
}

/**
 * Asks for JSON.
 *
 * @param {string} path
 * @param {string} [method]
 * @param {unknown} [body] sent as JSON
 * @returns {Promise<any>}
 */
export async function ask(path, method = 'GET', body = undefined) {
  const reply = await send(path, {
    method,
    headers: { accept: 'application/json', ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
    body: body === undefined ? undefined : JSON.stringify(body),
    // Debian's TypeScript does not know it yet.
    signal: /** @type {any} */ (AbortSignal).timeout(PATIENCE_MS),
  })
  return reply.json().catch((error) => { throw unread(error) })
}

/**
 * Says why a reply's body could not be read.
 *
 * @param {unknown} error
 */
function unread(error) {
  if (error instanceof TypeError) return new Away('the connection broke off')
  return error instanceof SyntaxError ? new Error('what came back is not JSON, so it is not from the API') : error
}

/**
 * Writes the query of a path; what is empty is left out.
 *
 * @param {string} path
 * @param {Record<string, string | number | null | undefined>} query
 */
export function withQuery(path, query) {
  const given = Object.entries(query).filter(([, value]) => value !== '' && value !== null && value !== undefined)
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString()
  return text ? `${path}?${text}` : path
}

/**
 * Uploads a file for a batch. XMLHttpRequest, for fetch does not tell how far an upload is.
 *
 * @param {File} file
 * @param {(share: number) => void} progress from 0 to 1
 * @param {AbortSignal} signal
 * @returns {Promise<import('./types.js').StoredFile>}
 */
export function upload(file, progress, signal) {
  const form = new FormData(), request = new XMLHttpRequest()
  form.append('purpose', 'batch')
  form.append('file', file, file.name)
  return new Promise((resolve, reject) => {
    request.open('POST', 'v1/files')
    for (const [name, value] of Object.entries(withKey())) request.setRequestHeader(name, value)
    request.responseType = 'json'
    request.upload.onprogress = (event) => progress(event.lengthComputable ? event.loaded / event.total : 0)
    request.onload = () => {
      if (request.status < 300) resolve(request.response)
      else reject(new Refused(request.status, request.response?.error?.message || `status ${request.status}`))
    }
    request.onerror = () => reject(new Error('the connection broke off'))
    request.onabort = () => reject(new DOMException('stopped', 'AbortError'))
    signal.addEventListener('abort', () => request.abort())
    request.send(form)
  })
}

/**
 * Saves a file of the API under a name. A link carries no key, so this fetches what it means.
 *
 * @param {string} fileId
 * @param {string} name
 */
export async function download(fileId, name) {
  const path = `v1/files/${encodeURIComponent(fileId)}/content`
  const content = session.key ? URL.createObjectURL(await (await send(path)).blob()) : path
  const link = document.createElement('a')
  link.href = content
  link.download = name
  link.click()
  if (session.key) setTimeout(() => URL.revokeObjectURL(content), 60_000)
}

/**
 * Whether nothing came back.
 *
 * @param {unknown} error
 */
export const isAway = (error) => error instanceof Away || (error instanceof Error && error.name === 'TimeoutError')

/**
 * Says what went wrong, for people.
 *
 * @param {unknown} error
 */
export function reason(error) {
  if (error instanceof Refused) return `${error.message} (${error.status})`
  if (error instanceof Error && error.name === 'TimeoutError') return 'the API did not answer in time'
  return error instanceof Error ? error.message : String(error)
}
