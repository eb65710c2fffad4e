// @ts-check
/** A circuit breaker: how it stands, and what an admin may do to it by hand. */

import { make, part, say, tell } from '../core/dom.js'
import { Refused, ask, reason } from '../core/http.js'
import { moment, number, serverName } from '../core/text.js'
import { complaint, labelled } from '../parts/forms.js'
import { showFacts } from '../parts/facts.js'
import { shownId } from '../parts/ids.js'
import { LEVELS, detailOf, stateWords, troubleWords } from '../parts/tiers.js'
import { stateOf } from '../parts/glance.js'

/** @typedef {import('../core/types.js').Breaker} Breaker */

/** @type {[string, string, string][]} */
const ACTIONS = [
  ['open', 'Take out of service', 'No call goes there until somebody says otherwise.'],
  ['disable', 'Ask whatever happens', 'Every call goes there, and none is counted.'],
  ['auto', 'Back to automatic', 'Ends both; what was open is probed first.'],
  ['reset', 'Close it', 'For all processes, at once; failures are forgotten.'],
]

/**
 * @param {import('../core/types.js').Where} where
 * @returns {import('../core/types.js').View}
 */
export function breaker({ id }) {
  const why = make('input', { name: 'why', maxlength: 500, autocomplete: 'off' }), failed = complaint('not-changed')
  const buttons = ACTIONS.map(([action, text, about]) => make('div', {}, make('button', { type: 'button', onclick: () => change(action) }, text), ' ', make('span', { class: 'dim' }, about)))
  const element = make('article', { class: 'breaker' }, make('h2', { tabindex: -1 }, `Breaker of ${serverName(id)}`), make('p', {}, shownId(id)),
    make('p', { class: 'state mark', role: 'status' }), make('p', { class: 'troubles' }), make('dl', { class: 'card facts' }),
    make('section', { 'aria-labelledby': 'h-by-hand' }, make('h3', { id: 'h-by-hand' }, 'By hand'),
      make('form', { class: 'card', onsubmit: (/** @type {Event} */ event) => event.preventDefault() },
        labelled('Why', why, 'Shown to everybody who looks, beside the name of your key and the time.'), ...buttons, failed)))

  async function look() {
    const { circuit_breakers: all } = await ask('circuit-breakers')
    if (!all[id]) throw new Refused(404, `there is no circuit breaker ${id}`)
    show(element, all[id])
  }

  /** @param {string} action */
  async function change(action) {
    say(failed, '')
    try {
      const b = await ask(`circuit-breakers/${encodeURIComponent(id)}/${action}`, 'POST', { why: why.value.trim() })
      tell(`Breaker ${id} is ${b.state}${b.override ? ', by hand' : ''}.`)
      why.value = ''
      await look()
    } catch (error) { say(failed, `Nothing was changed: ${reason(error)}`) }
  }
  return { title: `Breaker ${id}`, element, look }
}

/**
 * @param {HTMLElement} element
 * @param {Breaker} b
 */
function show(element, b) {
  const worst = b.state === 'closed' ? b.troubles?.[0] : undefined
  part(element, 'state').className = `state mark ${b.override === 'disabled' ? 'warn' : LEVELS[stateOf(b)]}`
  say(part(element, 'state'), stateWords(b, worst))
  say(part(element, 'troubles'), troubleWords(b, b.troubles || []))
  const { by, why, at } = b.changed || {}, { calls, failures, slow, seconds } = b.window
  showFacts(part(element, 'facts'), {
    'state': detailOf(b), 'tier': b.tier, 'failures in a row': `${b.consecutive_failures} of ${b.failure_threshold}`,
    [`calls in ${seconds} s`]: `${number(calls)}, ${number(failures)} failed, ${number(slow)} slow`,
    'last changed by': by || null, 'because': why || null, 'at': at ? moment(at) : null,
  })
}
