// @ts-check
/** Server-sent events of a reply: what the API streams. EventSource cannot send a key, or POST. */

/**
 * Yields the comments and the data of a stream, each as a text; a comment begins with a colon.
 *
 * @param {Response} reply
 * @returns {AsyncGenerator<string>}
 */
export async function* eventsOf(reply) {
  if (!reply.body) return
  const reader = reply.body.getReader(), decoder = new TextDecoder()
  let rest = ''
  try {
    for (;;) {
      const { value, done } = await reader.read()
      if (done) return
      const events = (rest + decoder.decode(value, { stream: true })).split('\n\n')
      rest = events.pop() || ''
      for (const event of events) if (event) yield event.startsWith('data: ') ? event.slice(6) : event
    }
  } finally {
    reader.cancel().catch(() => {})
  }
}

/** An answer as it comes: its words, and what is told of the way to them. */
export class Answer {
  constructor() {
    this.text = ''
    this.thoughts = ''
    this.last = -1 // sequence number
    this.note = ''
    this.model = ''
    this.done = false
    /** @type {string | null} */
    this.error = null
    /** @type {import('./types.js').Usage | null} */
    this.usage = null
  }

  /** @param {string} event */
  take(event) {
    if (event.startsWith(':')) this.note = event.slice(1).trim()
    else if (event === '[DONE]') this.done = true
    else this.#chunk(JSON.parse(event))
  }

  /** @param {any} chunk */
  #chunk(chunk) {
    if (chunk.error) {
      this.error = chunk.error.message
      return
    }
    if (typeof chunk.sequence_number === 'number') this.last = chunk.sequence_number
    const choice = chunk.choices?.find((/** @type {any} */ each) => !each.index), delta = choice?.delta || {}
    this.model = chunk.model || this.model
    this.usage = chunk.usage || this.usage
    this.text += delta.content ?? choice?.text ?? ''
    this.thoughts += delta.reasoning_content ?? delta.reasoning ?? ''
    if (delta.tool_calls) this.text += delta.tool_calls.map((/** @type {any} */ call) => `${call.function?.name || ''}${call.function?.arguments || ''}`).join('')
  }
}
