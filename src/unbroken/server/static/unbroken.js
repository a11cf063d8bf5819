// @ts-check
/**
 * Unbroken in a page: streams that are read and written exactly once, whatever happens to the network, the server or
 * the tab. One ES module without dependencies, for every server of the Durable Streams protocol.
 *
 *     import { append, follow, producer } from "/-/unbroken.js"
 *
 *     const reading = follow("/chats/7", { onMessage: (message, position) => show(message), onError: alert })
 *     await append("/chats/7", { text: "hello" })       // one request: throws unless it is known to be written
 *     const writer = producer("/chats/7")               // in order, exactly once, repeated until it is written
 *     await writer.send({ text: "hello again" })
 *
 * follow(url, options) begins at `offset` ("-1", the beginning, by default; "now"; or a position) and calls
 *
 * - `onMessage(message, position)` with each message of a JSON stream, and each chunk of any other: a string if the
 *   stream is text, a Uint8Array if not. A promise that it returns is waited for, which slows the stream down;
 * - `onData(data, position)` in its place, with all that arrived at once: an array of messages, or a chunk;
 * - `onControl({ offset, upToDate, closed })` each time the server has said where the stream stands;
 * - `onStatus(status, { error, delayMs })` with "connecting", "live", "waiting" (to connect again) and "ended";
 * - `onError(error)` once, if reading ends because the stream is refused (a StreamError with `status` and `code`, such
 *   as 404 and "stream-not-found") or because one of these functions throws.
 *
 * A position stands after exactly what it came with: an offset, or "offset,n", n messages or bytes further. With
 * `storageKey` it is kept in `storage` (sessionStorage, each tab's own, by default), and a page that is loaded again
 * goes on there. `live` is "auto", "sse", "long-poll", or false to end when all that is there has been read. What is
 * returned has `done`, a promise of its end, `stop()`, `position`, `contentType` and `closed`; `signal` ends it too.
 *
 * follow, append and producer take `token` (sent as `Authorization: Bearer`) and `headers`, each a value or a function,
 * also an async one, that is called for each request, and again with `{ refresh: true }` after a 401; `fetch`, to be
 * used in place of the page's; and `signal`. A token that is part of the URL (`?token=`) stays there.
 *
 * @typedef {string | null | undefined} Token
 * @typedef {{ refresh: boolean }} How
 * @typedef {{
 *   token?: Token | ((how: How) => Token | Promise<Token>),
 *   headers?: Record<string, string> | ((how: How) => Record<string, string> | Promise<Record<string, string>>),
 *   fetch?: typeof fetch,
 *   signal?: AbortSignal,
 * }} RequestOptions
 * @typedef {"connecting" | "live" | "waiting" | "ended"} Status
 * @typedef {{ offset: string, upToDate: boolean, closed: boolean }} Control
 *
 * `sseTimeoutMs`: an event stream that shows nothing for so long at first is held back by a proxy, and long-polls take
 * its place (5000). `silenceTimeoutMs`: a connection that is silent for so long is dead (45000: three heartbeats).
 * @typedef {RequestOptions & {
 *   offset?: string,
 *   live?: "auto" | "sse" | "long-poll" | false,
 *   onMessage?: (message: any, position: string) => unknown,
 *   onData?: (data: any, position: string) => unknown,
 *   onControl?: (control: Control) => unknown,
 *   onStatus?: (status: Status, detail: { error?: StreamError, delayMs?: number }) => unknown,
 *   onError?: (error: any) => unknown,
 *   storageKey?: string,
 *   storage?: Pick<Storage, "getItem" | "setItem" | "removeItem">,
 *   sseTimeoutMs?: number,
 *   silenceTimeoutMs?: number,
 * }} FollowOptions
 *
 * `contentType`: the stream's, where it is not application/json for values, text/plain for strings and
 * application/octet-stream for bytes. `close`: the stream with this append. `seq`: its Stream-Seq.
 * @typedef {RequestOptions & { contentType?: string, close?: boolean, seq?: string }} AppendOptions
 *
 * `id`: of the producer, a random one by default. `epoch`: to be raised whenever an id is used again. `onError(error,
 * data)`: called for each message that was not written; what `send` returns may then be ignored. `batchBytes`: of one
 * request, about (256 KiB). `waitingBytes`: of all that is not yet written, about, beyond which `send` fails (16 MiB).
 * `timeoutMs`: until a request without an answer is repeated (60000).
 * @typedef {RequestOptions & {
 *   id?: string,
 *   epoch?: number,
 *   contentType?: string,
 *   onError?: (error: any, data: any) => unknown,
 *   batchBytes?: number,
 *   waitingBytes?: number,
 *   timeoutMs?: number,
 * }} ProducerOptions
 */

const RETRY_MS = { first: 250, most: 30_000, told: 300_000 }
/** Since when a live connection must have been quiet not to be trusted when the tab wakes up. */
const STALE_MS = 20_000
/** An answer without news that comes sooner has not waited for any. */
const HASTE_MS = 250
const APPEND_TRIES = 5
const BATCH_MESSAGES = 10_000
/** What is full by decision does not get empty by itself. */
const QUOTAS = ["path-quota-exceeded", "too-many-streams", "total-size-exceeded"]

/** A request that was refused (`status`, and `code` if the server gave one), or that got no answer (`status` 0). */
export class StreamError extends Error {
  /**
   * @param {string} message
   * @param {{ status?: number, code?: string, retryAfterMs?: number, headers?: Headers, cause?: unknown }} [facts]
   */
  constructor(message, { status = 0, code = "", retryAfterMs = 0, headers = new Headers(), cause } = {}) {
    super(message, { cause })
    this.name = "StreamError"
    this.status = status
    this.code = code
    this.retryAfterMs = retryAfterMs
    this.headers = headers
  }

  /** Whether the same request may succeed later. */
  get temporary() {
    if (QUOTAS.includes(this.code)) return false
    return this.status === 0 || this.status >= 500 || [408, 425, 429].includes(this.status)
  }

  /** Whether the server has said that nothing was written. */
  get unwritten() {
    return this.status === 429 || (this.status === 503 && this.code !== "" && this.code !== "outcome-unknown")
  }
}

/**
 * Follow a stream; see the top of this file.
 *
 * @param {string | URL} url
 * @param {FollowOptions} [options]
 */
export function follow(url, options = {}) {
  return new Reading(url, options)
}

/**
 * Append once: any value as one message of a JSON stream, a string or bytes to another. Tried again only where the
 * server says that nothing was written.
 *
 * @param {string | URL} url
 * @param {any} data undefined, with `close`, to do nothing but close the stream
 * @param {AppendOptions} [options]
 * @returns {Promise<{ offset: string, closed: boolean }>} where the stream ends now
 */
export async function append(url, data, { contentType, close = false, seq, ...options } = {}) {
  const pieces = data === undefined && close ? [] : [encode(data, contentType)]
  const headers = seq === undefined ? undefined : { "Stream-Seq": seq }
  for (let failures = 1; ; failures++) {
    try {
      const response = await post(url, pieces, close, { ...options, fields: headers })
      return { offset: response.headers.get("Stream-Next-Offset") ?? "", closed: isTrue(response, "Stream-Closed") }
    } catch (error) {
      options.signal?.throwIfAborted()
      if (failures === APPEND_TRIES || !(error instanceof StreamError && error.unwritten)) throw error
      await pause(delayMs(failures, error), options.signal)
      options.signal?.throwIfAborted()
    }
  }
}

/**
 * A writer whose messages arrive exactly once and in order: one request is under way, what is sent meanwhile goes with
 * the next, and a request without an answer is repeated under the same number. What a page has not got an answer for
 * when it is closed may not have been written.
 *
 * @param {string | URL} url
 * @param {ProducerOptions} [options]
 */
export function producer(url, options = {}) {
  return new Producer(url, options)
}

class Reading {
  /** The stream's, once it is known. */
  contentType = ""
  /** Whether the end of the stream has been reached: nothing will follow. */
  closed = false
  /** Where to go on. */
  position = "-1"

  #url
  #options
  #offset = ""
  /** Items that are there at the offset and have been handed on: messages, or bytes. */
  #skip = 0
  /** The first bytes of a character whose others have not come. */
  #held = new Uint8Array()
  #cursor = ""
  #saved = ""
  #upToDate = false
  #buffered = false
  #status = /** @type {Status | ""} */ ("")
  #stopped = new AbortController()
  #connection = new AbortController()
  #quietSince = 0

  /**
   * @param {string | URL} url
   * @param {FollowOptions} options
   */
  constructor(url, options) {
    this.#url = resolveUrl(url)
    this.#options = { live: /** @type {const} */ ("auto"), sseTimeoutMs: 5_000, silenceTimeoutMs: 45_000, ...options }
    const { storageKey, offset, onError } = options
    this.#saved = (storageKey && this.#storage.getItem(storageKey)) || ""
    this.position = this.#saved || offset || "-1"
    const [start, skip = "0"] = this.position.split(",")
    this.#offset = start
    this.#skip = Number(skip)
    /** Resolves when the stream is closed, reading was stopped, or all is read; rejects with what `onError` gets. */
    this.done = this.#run()
    if (onError) this.done.catch(() => {})
  }

  /** End reading; in the midst of a batch, right after the message that was handed on last. */
  stop() {
    this.#stopped.abort()
    this.#connection.abort()
  }

  async #run() {
    const { signal, storageKey, onError } = this.#options
    signal?.addEventListener("abort", () => this.stop(), { signal: this.#stopped.signal })
    if (signal?.aborted) this.stop()
    onWake((isOnline) => {
      if (isOnline) this.#buffered = false
      if (this.#quietSince && (isOnline || Date.now() - this.#quietSince > STALE_MS)) this.#connection.abort()
    }, this.#stopped.signal)
    try {
      await null
      await this.#persist()
      this.stop()
      this.#tell("ended")
    } catch (error) {
      this.stop()
      // A position that is refused would be refused again each time the page is loaded.
      const isRefused = error instanceof StreamError && [400, 404, 410].includes(error.status)
      if (storageKey && isRefused) this.#storage.removeItem(storageKey)
      this.#tell("ended")
      onError?.(error)
      throw error
    }
  }

  async #persist() {
    let failures = 0
    while (!this.#stopped.signal.aborted) {
      const begun = Date.now()
      const { position } = this
      try {
        if (await this.#attempt()) return
        failures = 0
      } catch (error) {
        if (this.#stopped.signal.aborted) return
        if (!(error instanceof StreamError && error.temporary)) throw error
        failures = this.position !== position || Date.now() - begun > STALE_MS ? 1 : failures + 1
        const ms = delayMs(failures, error)
        this.#tell("waiting", { error, delayMs: ms })
        await pause(ms, this.#stopped.signal, !error.retryAfterMs)
      }
    }
  }

  /** One connection. Returns whether reading has come to its end. */
  async #attempt() {
    const { live } = this.#options
    this.#connection = new AbortController()
    if (this.#status !== "live") this.#tell("connecting")
    try {
      if (!this.#upToDate || this.#skip) await this.#readPage("")
      else if (live === "long-poll" || this.#buffered || this.#held.length) await this.#readPage("long-poll")
      else await this.#readEvents()
    } finally {
      this.#connection.abort()
    }
    return this.closed || (live === false && this.#upToDate)
  }

  /** @param {"" | "long-poll"} live */
  async #readPage(live) {
    const begun = Date.now()
    const offset = this.#offset
    const response = await this.#ask(live, this.#options.silenceTimeoutMs).catch((error) => {
      this.#buffered = false
      throw error
    })
    const next = response.headers.get("Stream-Next-Offset")
    if (!next) throw this.#nonsense("the answer is not from a stream, or CORS hides its headers")
    const chunks = []
    for await (const chunk of this.#chunks(response, () => this.#options.silenceTimeoutMs)) chunks.push(chunk)
    const data = join(chunks)
    if (response.status === 200) this.contentType = response.headers.get("Content-Type") ?? ""
    this.#cursor = response.headers.get("Stream-Cursor") ?? ""
    const [upToDate, closed] = [isTrue(response, "Stream-Up-To-Date"), isTrue(response, "Stream-Closed")]
    const control = { offset: next, upToDate: upToDate || closed, closed }
    if (isJson(this.contentType)) await this.#takeMessages(data.length ? [decode(data)] : [], control)
    else await this.#takeBytes(data, control)
    if (next !== offset || closed) return
    if (this.#skip) throw new StreamError("the position is beyond the end", { status: 400, code: "invalid-offset" })
    if ((live || !upToDate) && Date.now() - begun < HASTE_MS) throw new StreamError("it answered without waiting")
  }

  async #readEvents() {
    const { sseTimeoutMs, silenceTimeoutMs, live } = this.#options
    const begun = Date.now()
    let timeoutMs = sseTimeoutMs
    try {
      const response = await this.#ask("sse", timeoutMs)
      if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
        throw this.#nonsense("the answer is not an event stream")
      }
      const parse = eventParser()
      let batch = []
      for await (const chunk of this.#chunks(response, () => timeoutMs)) {
        for (const { type, data } of parse(chunk)) {
          if (type === "data") batch.push(data)
          if (type !== "control") continue
          timeoutMs = silenceTimeoutMs
          await this.#takeBatch(batch, this.#parse(data))
          batch = []
          if (this.closed || this.#stopped.signal.aborted) return
        }
      }
    } catch (error) {
      if (live === "auto" && timeoutMs === sseTimeoutMs && Date.now() - begun >= timeoutMs) this.#buffered = true
      throw error
    }
    if (Date.now() - begun < HASTE_MS) throw new StreamError("the server ended the response at once")
    // Readers whom one server cut off together do not all come back together.
    await pause(Math.random() * HASTE_MS, this.#stopped.signal)
  }

  /**
   * Data counts when its control event is there: without one, nobody knows where it ends, and it is read again.
   *
   * @param {string[]} batch
   * @param {any} event
   */
  #takeBatch(batch, event) {
    const closed = event.streamClosed === true
    const control = { offset: event.streamNextOffset, upToDate: closed || event.upToDate === true, closed }
    this.#cursor = event.streamCursor ?? ""
    if (isJson(this.contentType)) return this.#takeMessages(batch, control)
    if (!isText(this.contentType)) return this.#takeBytes(join(batch.map(fromBase64)), control)
    const text = batch.join("")
    return this.#take(text ? [text] : [], text, control)
  }

  /**
   * @param {string[]} arrays
   * @param {Control} control
   */
  #takeMessages(arrays, control) {
    const messages = arrays.flatMap((array) => this.#parse(array))
    const fresh = messages.slice(this.#skip)
    return this.#take(fresh, fresh, control, Math.max(0, this.#skip - messages.length))
  }

  /**
   * Text is never cut inside a character: the first bytes of one count when the others are there.
   *
   * @param {Uint8Array<ArrayBuffer>} data
   * @param {Control} control
   */
  #takeBytes(data, control) {
    const text = isText(this.contentType)
    const fresh = data.subarray(this.#skip)
    const all = join([this.#held, fresh])
    const end = text && !control.closed ? wholeCharacters(all) : all.length
    const held = all.length - end
    const left = Math.max(0, this.#skip - data.length)
    let position
    if (held > fresh.length) position = this.position
    else if (held) position = `${this.#offset},${this.#skip + fresh.length - held}`
    this.#held = all.slice(end)
    const ready = text ? decode(all.subarray(0, end)) : all
    return this.#take(end ? [ready] : [], ready, control, left, position)
  }

  /**
   * Hand on what has come, one by one and at once.
   *
   * @param {any[]} items
   * @param {any} data
   * @param {Control} control
   * @param {number} [left] items to skip still
   * @param {string} [end] the position after it
   */
  async #take(items, data, control, left = 0, end = left ? `${control.offset},${left}` : control.offset) {
    const { onData, onMessage, onControl } = this.#options
    try {
      if (items.length) await onData?.(data, end)
      for (let done = 1; onMessage && done <= items.length; done++) {
        if (this.#stopped.signal.aborted) return
        const position = done < items.length ? `${this.#offset},${this.#skip + done}` : end
        const result = onMessage(items[done - 1], position)
        // A page is not unloaded while code runs: without a promise, the position need not be kept at each message.
        if (typeof (/** @type {any} */ (result)?.then) === "function") {
          this.#keep()
          await result
        }
        this.position = position
      }
      this.position = end
    } finally {
      this.#keep()
    }
    this.#offset = control.offset
    this.#skip = left
    this.#upToDate = control.upToDate
    this.closed = control.closed
    if (this.#upToDate && !this.closed) this.#tell("live")
    await onControl?.(control)
  }

  /**
   * @param {"" | "long-poll" | "sse"} live
   * @param {number} timeoutMs
   */
  #ask(live, timeoutMs) {
    const url = new URL(this.#url)
    url.searchParams.set("offset", this.#offset)
    if (live) url.searchParams.set("live", live)
    if (live && this.#cursor) url.searchParams.set("cursor", this.#cursor)
    // What was deleted and made anew since is not to be taken from a cache.
    const cache = live ? "no-store" : "no-cache"
    return this.#within(timeoutMs, request(url, { signal: this.#connection.signal, cache }, this.#options))
  }

  /**
   * @param {Response} response
   * @param {() => number} timeoutMs
   */
  async *#chunks(response, timeoutMs) {
    const reader = response.body?.getReader()
    while (reader) {
      const { done, value } = await this.#within(timeoutMs(), reader.read().catch(lose))
      if (done) return
      yield value
    }
  }

  /**
   * Wait for the network.
   *
   * @template T
   * @param {number} timeoutMs
   * @param {Promise<T>} promise
   */
  async #within(timeoutMs, promise) {
    this.#quietSince = Date.now()
    const timer = setTimeout(() => this.#connection.abort(), timeoutMs)
    try {
      return await promise
    } finally {
      clearTimeout(timer)
      this.#quietSince = 0
    }
  }

  /** @param {string} text */
  #parse(text) {
    try {
      return JSON.parse(text)
    } catch {
      throw this.#nonsense("the answer is not JSON")
    }
  }

  /**
   * What is no answer of a stream is final at first (a wrong URL), and a passing trouble later (a hotel's network).
   *
   * @param {string} message
   */
  #nonsense(message) {
    return new StreamError(message, { status: this.contentType ? 0 : 200, code: "not-a-stream" })
  }

  /**
   * @param {Status} status
   * @param {{ error?: StreamError, delayMs?: number }} [detail]
   */
  #tell(status, detail = {}) {
    if (status === this.#status) return
    this.#status = status
    this.#options.onStatus?.(status, detail)
  }

  get #storage() {
    return this.#options.storage ?? globalThis.sessionStorage
  }

  #keep() {
    const { storageKey } = this.#options
    if (!storageKey || this.position === this.#saved) return
    this.#saved = this.position
    this.#storage.setItem(storageKey, this.position)
  }
}

/**
 * @typedef {{ contentType: string, content: string | Blob, size: number }} Piece
 * @typedef {{
 *   piece: Piece | undefined,
 *   close: boolean,
 *   resolve: () => void,
 *   reject: (error: unknown) => void,
 *   forget: () => void,
 * }} Entry
 */

class Producer {
  #url
  #options
  #id
  #epoch
  #seq = 0
  #waiting = /** @type {Entry[]} */ ([])
  #waitingBytes = 0
  #pending = /** @type {Set<Promise<void>>} */ (new Set())
  #running = /** @type {Promise<void> | undefined} */ (undefined)
  #contentType = ""
  /** Why nothing can be sent any more. */
  #failure = /** @type {unknown} */ (undefined)
  #closing = false
  #stopped = new AbortController()

  /**
   * @param {string | URL} url
   * @param {ProducerOptions} options
   */
  constructor(url, options) {
    this.#url = resolveUrl(url)
    this.#options = { batchBytes: 256 * 1024, waitingBytes: 16 * 1024 * 1024, timeoutMs: 60_000, ...options }
    this.#id = options.id ?? randomId()
    this.#epoch = options.epoch ?? 0
    this.#contentType = options.contentType ?? ""
    const { signal } = options
    signal?.addEventListener("abort", () => this.stop(signal.reason), { signal: this.#stopped.signal })
    if (signal?.aborted) this.stop(signal.reason)
  }

  /**
   * Write a message: any value to a JSON stream, a string or bytes to another.
   *
   * @param {any} data
   * @returns {Promise<void>} resolves when it is written, for good; rejects with why it was refused
   */
  send(data) {
    return this.#enqueue(data, false)
  }

  /** Resolves when all that was sent is written; rejects if some of it was refused. */
  async flush() {
    await Promise.all(this.#pending)
  }

  /**
   * Close the stream, with a last message if one is given; nothing can be sent after it.
   *
   * @param {any} [data]
   */
  close(data) {
    return this.#enqueue(data, true)
  }

  /**
   * Give up: nothing is sent any more, and what has no answer yet fails. It may have been written.
   *
   * @param {unknown} [reason]
   */
  stop(reason = new DOMException("the producer was stopped", "AbortError")) {
    this.#failure ??= reason
    this.#stopped.abort()
  }

  /**
   * @param {any} data
   * @param {boolean} close
   */
  #enqueue(data, close) {
    const piece = close && data === undefined ? undefined : encode(data, this.#contentType)
    const { onError, waitingBytes } = this.#options
    const isFull = this.#waitingBytes > waitingBytes
    const reason = this.#closing ? "the producer is closed" : isFull ? "too much is waiting" : ""
    const failure = this.#failure ?? (reason && new Error(reason))
    const entry = /** @type {Entry} */ ({ piece, close })
    /** @type {Promise<void>} */
    const promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }))
    if (onError) promise.catch((error) => onError(error, data))
    if (failure) {
      entry.reject(failure)
      return promise
    }
    this.#contentType ||= piece?.contentType ?? ""
    this.#waitingBytes += piece?.size ?? 0
    this.#closing = close
    this.#waiting.push(entry)
    this.#pending.add(promise)
    // Not as a reaction to the promise: with one, a rejection that nobody hears would count as heard.
    entry.forget = () => this.#pending.delete(promise)
    this.#running ??= this.#run()
    return promise
  }

  async #run() {
    await null // what is sent in the same turn goes along
    while (this.#waiting.length) {
      const batch = this.#nextBatch()
      try {
        await this.#write(batch)
        for (const entry of batch) entry.resolve()
      } catch (error) {
        if (batch[batch.length - 1].close) this.#closing = false
        for (const entry of batch) entry.reject(error)
      }
      for (const entry of batch) entry.forget()
    }
    this.#running = undefined
  }

  #nextBatch() {
    let [count, size] = [0, 0]
    while (count < this.#waiting.length && count < BATCH_MESSAGES && size < this.#options.batchBytes) {
      size += this.#waiting[count++].piece?.size ?? 0
    }
    this.#waitingBytes -= size
    return this.#waiting.splice(0, count)
  }

  /** @param {Entry[]} batch */
  async #write(batch) {
    const pieces = batch.flatMap(({ piece }) => piece ?? [])
    const close = batch[batch.length - 1].close
    const { fetch, headers, token } = this.#options
    for (let failures = 1, isUnknown = false; ; failures++) {
      if (this.#failure) throw this.#failure
      const fields = { "Producer-Id": this.#id, "Producer-Epoch": `${this.#epoch}`, "Producer-Seq": `${this.#seq}` }
      try {
        const signal = AbortSignal.any([this.#stopped.signal, AbortSignal.timeout(this.#options.timeoutMs)])
        await post(this.#url, pieces, close, { fields, fetch, headers, token, signal })
        this.#seq++
        return
      } catch (error) {
        if (this.#failure) throw this.#failure
        if (!(error instanceof StreamError)) throw error
        isUnknown ||= error.temporary && !error.unwritten
        if (!error.temporary) {
          this.#refused(error, isUnknown)
          throw error
        }
        await pause(delayMs(failures, error), this.#stopped.signal, !error.retryAfterMs)
      }
    }
  }

  /**
   * Go on after a refusal. The number may be used up nevertheless, by a request whose answer was lost; under it the
   * next batch would pass for a repetition and be dropped. So a new epoch begins, unless the page chooses those.
   *
   * @param {StreamError} error
   * @param {boolean} isUnknown
   */
  #refused(error, isUnknown) {
    if (this.#options.id === undefined) [this.#epoch, this.#seq] = [this.#epoch + 1, 0]
    else if (isUnknown || error.headers.has("Producer-Expected-Seq")) this.#failure = error
  }
}

/**
 * @param {string | URL} url
 * @param {RequestInit} init
 * @param {RequestOptions} options
 */
async function request(url, init, { token, headers, fetch = globalThis.fetch }) {
  for (let refresh = false; ; refresh = true) {
    const fields = new Headers(init.headers)
    for (const [name, value] of Object.entries((await resolve(headers, refresh)) ?? {})) fields.set(name, value)
    const bearer = await resolve(token, refresh)
    if (bearer) fields.set("Authorization", `Bearer ${bearer}`)
    const response = await fetch(url, { ...init, headers: fields }).catch(lose)
    if (response.ok) return response
    const error = await refusal(response)
    const mayHelp = typeof token === "function" || typeof headers === "function"
    if (response.status !== 401 || refresh || !mayHelp) throw error
  }
}

/**
 * @param {string | URL} url
 * @param {Piece[]} pieces
 * @param {boolean} close
 * @param {RequestOptions & { fields?: Record<string, string> }} options
 */
function post(url, pieces, close, { fields, signal, ...options }) {
  const headers = new Headers(fields)
  if (close) headers.set("Stream-Closed", "true")
  const contentType = pieces[0]?.contentType
  if (contentType) headers.set("Content-Type", contentType)
  const contents = pieces.map(({ content }) => content)
  const body = isJson(contentType) ? `[${contents.join(",")}]` : new Blob(contents)
  return request(url, { method: "POST", headers, body, signal }, options)
}

/**
 * @param {any} data
 * @param {string} [contentType]
 * @returns {Piece}
 */
function encode(data, contentType) {
  const isString = typeof data === "string"
  const isBinary = data instanceof Blob || data instanceof ArrayBuffer || ArrayBuffer.isView(data)
  if (isJson(contentType || (isString || isBinary ? "text/plain" : "application/json"))) {
    const content = JSON.stringify(data)
    if (content === undefined) throw new TypeError("a message must be a JSON value")
    return { contentType: contentType || "application/json", content, size: content.length }
  }
  if (!isString && !isBinary) throw new TypeError(`data for a stream of ${contentType} must be a string or bytes`)
  const content = new Blob([/** @type {BlobPart} */ (data)])
  contentType ||= isString ? "text/plain" : "application/octet-stream"
  return { contentType, content, size: content.size }
}

/**
 * @template T
 * @param {T | ((how: How) => T | Promise<T>)} value
 * @param {boolean} refresh
 * @returns {Promise<T>}
 */
async function resolve(value, refresh) {
  try {
    return value instanceof Function ? await value({ refresh }) : value
  } catch (cause) {
    return lose(cause) // tokens come over the network too
  }
}

/**
 * @param {unknown} cause
 * @returns {never}
 */
function lose(cause) {
  throw new StreamError("the connection was lost", { cause })
}

/** @param {Response} response */
async function refusal(response) {
  const { status, statusText, headers } = response
  const problem = await response.json().catch(() => undefined)
  const told = headers.get("Retry-After") ?? ""
  const ms = /^\d+$/.test(told) ? Number(told) * 1000 : Date.parse(told) - Date.now()
  const retryAfterMs = Math.min(Math.max(0, ms || 0), RETRY_MS.told)
  const message = problem?.detail ?? `the server answered ${status} ${statusText}`
  return new StreamError(message, { status, code: problem?.code, retryAfterMs, headers })
}

/**
 * Twice as long each time, and never together with others.
 *
 * @param {number} failures
 * @param {StreamError} error
 */
function delayMs(failures, { retryAfterMs }) {
  const most = Math.min(RETRY_MS.most, RETRY_MS.first * 2 ** (failures - 1))
  return retryAfterMs + most * (0.5 + Math.random() / 2)
}

/**
 * Wait, but no longer than until the network or the user is back.
 *
 * @param {number} ms
 * @param {AbortSignal} [signal]
 * @param {boolean} [wakes]
 * @returns {Promise<void>}
 */
function pause(ms, signal, wakes = true) {
  return new Promise((resolve) => {
    const over = new AbortController()
    const end = () => {
      clearTimeout(timer)
      over.abort()
      resolve()
    }
    const timer = setTimeout(end, ms)
    if (wakes) onWake(end, over.signal)
    signal?.addEventListener("abort", end, { signal: over.signal })
    if (signal?.aborted) end()
  })
}

/**
 * Tabs sleep, are put away and brought back, and lose the network.
 *
 * @param {(isOnline: boolean) => void} listener
 * @param {AbortSignal} signal until when to listen
 */
function onWake(listener, signal) {
  /** @param {Event} event */
  const heard = ({ type }) => {
    if (type === "online" || globalThis.document?.visibilityState === "visible") listener(type === "online")
  }
  for (const name of ["online", "pageshow", "visibilitychange"]) {
    globalThis.addEventListener?.(name, heard, { signal })
  }
}

/** Parser of event streams (HTML section 9.2.6); an event that is cut short is none. */
function eventParser() {
  const decoder = new TextDecoder()
  let [rest, type, data, isAfterCr] = ["", "", /** @type {string[]} */ ([]), false]
  return /** @param {Uint8Array} chunk */ function* (chunk) {
    let text = decoder.decode(chunk, { stream: true })
    if (isAfterCr && text.startsWith("\n")) text = text.slice(1)
    if (text) isAfterCr = text.endsWith("\r")
    const lines = text.split(/\r\n|\r|\n/)
    lines[0] = rest + lines[0]
    rest = lines.pop() ?? ""
    for (const line of lines) {
      const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line) ?? []
      if (name === "data" && line) data.push(value)
      else if (name === "event") type = value
      else if (!line) {
        if (data.length) yield { type, data: data.join("\n") }
        type = ""
        data = []
      }
    }
  }
}

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true })

/** As good as crypto.randomUUID, which pages without TLS do not have. */
const randomId = () => crypto.getRandomValues(new Uint32Array(4)).join("-")

/** @param {Uint8Array} data */
const decode = (data) => utf8.decode(data)

/** @param {string} text */
const fromBase64 = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0))

/** @param {string} [contentType] */
const mediaType = (contentType = "") => contentType.split(";")[0].trim().toLowerCase()

/** @param {string} [contentType] */
const isJson = (contentType) => mediaType(contentType) === "application/json"

/** @param {string} [contentType] */
const isText = (contentType) => mediaType(contentType).startsWith("text/")

/** @param {string | URL} url */
const resolveUrl = (url) => new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href)

/**
 * @param {Response} response
 * @param {string} name
 */
const isTrue = (response, name) => response.headers.get(name)?.toLowerCase() === "true"

/** @param {Uint8Array[]} parts */
function join(parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0))
  let end = 0
  for (const part of parts) {
    whole.set(part, end)
    end += part.length
  }
  return whole
}

/**
 * Up to where there is no incomplete character.
 *
 * @param {Uint8Array} data UTF-8
 */
function wholeCharacters(data) {
  for (let back = 1; back <= Math.min(3, data.length); back++) {
    const byte = data[data.length - back]
    if ((byte & 0xc0) === 0x80) continue
    const size = byte > 0xf4 ? 1 : byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1
    return size > back ? data.length - back : data.length
  }
  return data.length
}
