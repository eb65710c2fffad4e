// @ts-check
/** The links in the head that are an admin's: to Flower, and to the metrics. */

import { $ } from '../core/dom.js'
import { Refused, ask } from '../core/http.js'
import { session } from '../core/session.js'

/** Shows those that this key may follow; asks once for a key where Flower is, unless a page has. */
export async function showLinks() {
  const { key } = session
  if (session.admin && session.flower === undefined) {
    session.flower = null
    const flower = await whereFlowerIs()
    if (key !== session.key) return
    session.flower = flower
  }
  $('metrics').hidden = !session.admin
  $('flower').hidden = !session.admin || !session.flower
  if (session.flower) $('flower').setAttribute('href', session.flower)
}

/** @returns {Promise<string | null | undefined>} null: nowhere; undefined: that could not be told */
async function whereFlowerIs() {
  const { key } = session
  try {
    return (await ask('metrics')).metrics.flower_url
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 403) return undefined
    if (key === session.key) session.admin = false
    return null
  }
}

export function hideLinks() {
  $('metrics').hidden = $('flower').hidden = true
}
