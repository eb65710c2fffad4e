// @ts-check
/** Lines of a batch, a page at a time: what was answered, and what failed, while it runs and after. */

import { fill, make, put, say } from '../core/dom.js'
import { ask, reason, withQuery } from '../core/http.js'
import { number } from '../core/text.js'
import { table } from './listing.js'
import { textOf } from './messages.js'

const PAGE = 20

/** @typedef {import('../core/types.js').Batch} Batch */

/**
 * A section of lines. The first page is looked at again while the batch runs; others are read once.
 *
 * @param {object} about
 * @param {string} about.id
 * @param {string} about.title
 * @param {string} about.none
 * @param {string} about.path
 * @param {[string, string?][]} about.columns
 * @param {(line: any, place: number) => (string | Node)[]} about.cells
 * @param {(b: Batch) => boolean} about.some whether there can be any
 */
function lines({ id, title, none, path, columns, cells, some }) {
  const { element: shown, rows } = table(title, columns), note = make('p', { class: 'dim', role: 'status' })
  const older = make('button', { type: 'button' }, 'Next lines'), first = make('button', { type: 'button' }, 'First lines')
  /** @type {string[]} cursors that were followed */
  const places = ['']
  let next = ''

  async function show() {
    const page = await ask(withQuery(path, { limit: PAGE, after: places[places.length - 1] }))
    const begin = (places.length - 1) * PAGE
    next = page.next
    shown.hidden = !page.data.length
    say(note, page.data.length ? '' : none)
    fill(rows, page.data, (line) => `${begin} ${JSON.stringify(line)}`, (line) => make('tr', {}, ...cells(line, begin).map((cell) => (cell instanceof HTMLTableCellElement ? cell : make('td', {}, cell)))))
    older.hidden = !page.has_more
    first.hidden = places.length === 1
  }
  older.addEventListener('click', () => turn(() => places.push(next)))
  first.addEventListener('click', () => turn(() => places.splice(1)))

  /** @param {() => void} change */
  async function turn(change) {
    change()
    await show().catch((error) => say(note, reason(error)))
    shown.focus()
  }

  return {
    element: make('section', { 'aria-labelledby': id, class: id.slice(2) }, make('h3', { id }, title), shown, note, make('p', { class: 'pager' }, first, older)),
    /** @param {Batch} b */
    async look(b) {
      if (some(b) && places.length === 1) await show().catch((error) => say(note, reason(error)))
      else if (!some(b)) put(note, none)
      if (!some(b)) shown.hidden = older.hidden = first.hidden = true
    },
  }
}

/** @param {string} path of a batch */
export function errorsOf(path) {
  return lines({
    id: 'h-errors', title: 'Errors', none: 'No line failed.', path: `${path}/errors`,
    columns: [['line', 'number'], ['custom_id'], ['code'], ['message', 'message']],
    cells: (error) => [make('td', { class: 'number' }, error.line === null ? '' : number(error.line)), error.custom_id ?? '', error.code ?? '', make('td', { class: 'message' }, error.message)],
    some: (b) => b.request_counts.failed > 0 || b.status === 'failed',
  })
}

/** @param {string} path of a batch */
export function answersOf(path) {
  return lines({
    id: 'h-answers', title: 'Answers', none: 'None yet.', path: `${path}/results`,
    columns: [['custom_id'], ['tier'], ['answer', 'message']],
    cells: (line) => [line.custom_id ?? '', tierOf(line), make('td', { class: 'message' }, said(line))],
    some: (b) => b.request_counts.completed + b.request_counts.failed > 0,
  })
}

/** @param {any} line */
const tierOf = (line) => line.fallthrough?.tier ?? line.response?.body?.fallthrough?.tier ?? line.fallthrough?.tier_used ?? ''

/** @param {any} line */
function said(line) {
  const body = line.response?.body
  if (line.error || body?.error) return `failed: ${(line.error || body.error).message}`
  const choice = body?.choices?.[0]
  return choice ? textOf(choice.message?.content ?? choice.text ?? choice.message?.tool_calls) : JSON.stringify(body ?? '').slice(0, 500)
}
