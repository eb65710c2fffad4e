// @ts-check
/** What was asked, as text. */

import { make } from '../core/dom.js'

/** @typedef {import('../core/types.js').Body} Body */

/**
 * The text of a message's content: a text, or parts of which some are none.
 *
 * @param {any} content
 * @returns {string}
 */
export function textOf(content) {
  if (typeof content === 'string') return content
  if (!Array.isArray(content)) return content ? JSON.stringify(content) : ''
  return content.map((piece) => piece.text ?? `[${piece.type || 'part'}]`).join('\n')
}

/**
 * Shows a request: its messages, prompt or input, and its other parameters.
 *
 * @param {Body} request
 * @returns {HTMLElement[]}
 */
export function messagesOf({ messages, prompt, input, ...others }) {
  const said = (messages || []).map((/** @type {any} */ message) => shown(message.role, textOf(message.content) || JSON.stringify(message.tool_calls ?? '')))
  if (prompt !== undefined) said.push(shown('prompt', textOf(prompt)))
  if (input !== undefined) said.push(shown('input', typeof input === 'string' ? input : JSON.stringify(input)))
  const rest = Object.entries(others).map(([name, value]) => `${name} ${typeof value === 'string' ? value : JSON.stringify(value)}`)
  if (rest.length) said.push(make('p', { class: 'dim' }, rest.join(' · ')))
  return said
}

/**
 * @param {string} who
 * @param {string} text
 */
export const shown = (who, text) => make('div', { class: 'message' }, make('span', { class: 'dim' }, who), make('pre', { class: 'card', tabindex: 0 }, text))
