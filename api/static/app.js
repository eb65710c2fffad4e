// @ts-check
/** The frame around the pages: which is shown, the key, and what is told when the API is away. */

import { $, make, put, say, tell } from './core/dom.js'
import { Refused, ask, isAway, reason } from './core/http.js'
import { Loop } from './core/loop.js'
import { place } from './core/router.js'
import { faultOfKey, forgetKey, keepKey, keptFault, session } from './core/session.js'
import { clock } from './core/text.js'
import { batch } from './pages/batch.js'
import { batches } from './pages/batches.js'
import { breaker } from './pages/breaker.js'
import { files } from './pages/files.js'
import { job } from './pages/job.js'
import { jobs } from './pages/jobs.js'
import { newBatch } from './pages/new_batch.js'
import { overview } from './pages/overview.js'
import { forgetDrafts, playground } from './pages/playground.js'
import { hideLinks, showLinks } from './parts/links.js'

/** @typedef {import('./core/types.js').View} View */
/** @type {Record<string, (where: import('./core/types.js').Where) => View>} */
const PAGES = {
  '': overview, jobs, 'jobs/': job, batches, 'batches/': batch, 'batches/new': newBatch, files, playground, 'breakers/': breaker,
}

/** @type {View | null} */
let view = null
/** @type {Date | null} */
let seenAt = null
let opened = 0 // pages so far: the first takes no focus from the address

const loop = new Loop({ seen, keyWanted, lost, refused })

// ---- which page ----

function pageOf() {
  const { page, id, query } = place()
  const open = (id && PAGES[`${page}/${id}`]) || PAGES[id ? `${page}/` : page]
  return { page, view: open ? open({ id, query }) : missing() }
}

/** @returns {View} */
function missing() {
  const element = make('p', {}, 'There is no such page. ', make('a', { href: '#/' }, 'Go to the overview.'))
  return { title: 'No such page', element, look: async () => null }
}

function close() {
  view?.leave?.()
  loop.stop()
  view = null
}

function open() {
  close()
  const { page, view: next } = pageOf()
  view = next
  tell('')
  put($('view'), next.element)
  for (const link of $('pages').querySelectorAll('a')) {
    if (link.hash === `#/${page}`) link.setAttribute('aria-current', 'page')
    else link.removeAttribute('aria-current')
  }
  if (opened) focusOn(next)
  opened += 1
  seenAt = null
  loop.show(next)
}

/** @param {View} next */
function focusOn(next) {
  const heading = next.element.querySelector('h2[tabindex]')
  if (heading instanceof HTMLElement) heading.focus({ preventScroll: true })
  else $('view').focus({ preventScroll: true })
  scrollTo(0, 0)
}

// ---- what a look came to ----

/** @param {View} now */
function seen(now) {
  keepKey()
  seenAt = new Date()
  refuseKey('')
  $('login').hidden = true
  $('all').hidden = $('pages').hidden = false
  $('forget').hidden = !session.key
  showLinks()
  $('all').classList.remove('stale')
  $('top').classList.remove('lost')
  say($('next'), '')
  say($('at'), `as of ${clock(seenAt)}`)
  const { level, text, title } = now.headline?.() || { level: '', text: '', title: now.title }
  headline(level, text, title)
  tick()
}

/**
 * @param {string} level
 * @param {string} text
 * @param {string} title
 */
function headline(level, text, title) {
  $('glance').className = `mark ${level}`
  $('glance').hidden = !text
  say($('glance'), text)
  document.title = title ? `${title} – Fallthrough` : 'Fallthrough'
}

function keyWanted() {
  const tried = session.key
  wantKey()
  if (tried) refuseKey('This key was refused (401): it is not known here, or was revoked.')
}

/** @param {string} why empty: nothing is known against it */
function refuseKey(why) {
  say($('refused'), why)
  if (why) $('key').setAttribute('aria-invalid', 'true')
  else $('key').removeAttribute('aria-invalid')
}

function wantKey() {
  close()
  forgetKey()
  put($('view'))
  for (const id of ['all', 'pages', 'forget']) $(id).hidden = true
  hideLinks()
  for (const id of ['at', 'said', 'next']) say($(id), '')
  $('top').classList.remove('lost')
  headline('warn', 'This server wants an API key', '(!) This server wants an API key')
  $('login').hidden = false
  const key = /** @type {HTMLInputElement} */ ($('key'))
  key.value = ''
  key.focus()
}

/** @param {unknown} error */
function lost(error) {
  const status = error instanceof Refused ? error.status : 0
  const said = error instanceof Error ? error.message : String(error)
  const why = status === 429 ? `The API limits this key: ${reason(error)}.` : status ? `The API cannot tell (${status}): ${said}.` : isAway(error) ? 'The API does not answer.' : `This page cannot be shown: ${said}.`
  const since = seenAt ? ` What is shown is from ${clock(seenAt)}.` : ''
  $('all').classList.add('stale')
  $('top').classList.add('lost')
  headline('bad', why + since, '(!) no answer')
  tick()
}

/** @param {Refused} error */
function refused(error) {
  $('login').hidden = true
  $('all').hidden = $('pages').hidden = false
  $('forget').hidden = !session.key
  put($('view'))
  headline('bad', `${error.message} (${error.status})`, `(!) ${error.message}`)
}

function tick() {
  view?.tick?.()
  if ($('top').className) say($('next'), `Next try in ${Math.ceil(loop.left)} s.`)
}

// ---- what a person does ----

$('login').addEventListener('submit', (event) => {
  event.preventDefault()
  const field = /** @type {HTMLInputElement} */ ($('key')), key = field.value.trim(), fault = faultOfKey(key)
  refuseKey(fault)
  if (fault) {
    field.value = '' // what cannot be seen cannot be mended there
    return
  }
  session.key = key
  open()
})
$('forget').addEventListener('click', () => {
  forgetDrafts()
  wantKey()
})
// The address of a page begins with #/; this link is none of them.
$('skip').addEventListener('click', (event) => {
  event.preventDefault()
  $('view').focus()
})
// A link carries no key: with one, this page fetches what the link means.
$('metrics').addEventListener('click', async (event) => {
  if (!session.key) return
  event.preventDefault()
  try {
    const text = JSON.stringify(await ask('metrics'), null, 2)
    location.href = URL.createObjectURL(new Blob([text], { type: 'application/json' }))
  } catch (error) { tell(`No metrics: ${reason(error)}`, true) }
})
document.addEventListener('visibilitychange', () => { if (!document.hidden) loop.look() })
addEventListener('online', () => loop.look())
addEventListener('hashchange', open)
setInterval(tick, 500)
refuseKey(keptFault) // seen if a key is wanted
open()
