// @ts-check
/** Asks before what cannot be taken back. */

import { make } from '../core/dom.js'

/**
 * Returns whether a person says yes: with the button, not with Escape.
 *
 * @param {string} question
 * @param {string} yes the button's text
 * @returns {Promise<boolean>}
 */
export function confirmed(question, yes) {
  const dialog = make('dialog', { 'aria-labelledby': 'question' },
    make('p', { id: 'question' }, question),
    make('form', { method: 'dialog', class: 'actions' },
      make('button', { value: 'yes', class: 'danger' }, yes), make('button', { value: 'no', autofocus: true }, 'Leave it')))
  // The page's policy lets no form be sent: the dialog is closed by hand.
  for (const button of dialog.querySelectorAll('button')) {
    button.type = 'button'
    button.addEventListener('click', () => dialog.close(button.value))
  }
  document.body.append(dialog)
  dialog.showModal()
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      dialog.remove()
      resolve(dialog.returnValue === 'yes')
    })
  })
}
