// @ts-check
/**
 * Makes and changes elements. Every value is set as text: nothing that a user, a file or a model
 * wrote is ever markup (and the page's policy lets no script make markup of text).
 */

/** @typedef {Node | string | null | undefined | false} Child */
/** @typedef {Record<string, string | number | boolean | null | undefined | ((event: any) => void)>} Attributes */

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
export function $(id) {
  const element = document.getElementById(id)
  if (!element) throw new Error(`there is no #${id}`)
  return element
}

/**
 * Makes an element. An attribute of true is there without a value, one of false or null is not; a
 * function under `onclick` listens to clicks.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} name
 * @param {Attributes} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name)
  for (const [attribute, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(attribute.slice(2), value)
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(attribute, value === true ? '' : String(value))
  }
  element.append(...withContent(children))
  return element
}

/**
 * @param {Child[]} children
 * @returns {(Node | string)[]}
 */
function withContent(children) {
  return /** @type {(Node | string)[]} */ (children.filter((child) => child !== null && child !== undefined && child !== false))
}

/**
 * @param {Element} element
 * @param {...Child} children
 */
export function put(element, ...children) {
  element.replaceChildren(...withContent(children))
}

/**
 * Sets a text, if it is another one: a screen reader is not told the same twice.
 *
 * @param {Element} element
 * @param {string} text
 */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/**
 * Shows one child for each item. Those that stay are kept, and with them the focus and the place of
 * a reader.
 *
 * @template T
 * @param {HTMLElement} parent
 * @param {T[]} items
 * @param {(item: T) => string} nameOf
 * @param {(item: T) => HTMLElement} create
 * @param {(child: HTMLElement, item: T) => void} [update]
 */
export function fill(parent, items, nameOf, create, update = () => {}) {
  const children = /** @type {HTMLElement[]} */ ([...parent.children])
  const old = new Map(children.map((child) => [child.dataset.name, child]))
  const now = items.map((item) => {
    const name = nameOf(item), child = old.get(name) || create(item)
    child.dataset.name = name
    update(child, item)
    return child
  })
  if (now.length !== children.length || now.some((child, n) => child !== children[n])) parent.replaceChildren(...now)
}

/**
 * Returns the first element of a class within another.
 *
 * @param {Element} element
 * @param {string} name
 * @returns {HTMLElement}
 */
export function part(element, name) {
  const found = element.querySelector(`.${name}`)
  if (!(found instanceof HTMLElement)) throw new Error(`there is no .${name}`)
  return found
}

/**
 * @param {string} name
 * @param {Record<string, string | number>} [attributes]
 * @param {...Element} children
 * @returns {SVGElement}
 */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, String(value))
  element.append(...children)
  return /** @type {SVGElement} */ (element)
}

/**
 * Tells what an action came to: shown below the head of the page, and read out.
 *
 * @param {string} text
 * @param {boolean} [failed]
 */
export function tell(text, failed = false) {
  $('said').className = failed ? 'bad' : ''
  say($('said'), text)
}
