// @ts-check
/**
 * Requests to the server that this page is from, wherever that is mounted, with the token of this tab.
 *
 * Content is taken as it comes, byte for byte: what JSON.parse would round or drop is what an inspector is for.
 */

const TOKEN = "unbroken.token"
const PAUSE_MS = { first: 500, most: 15_000 }

/** Where the streams are: the page is at "/-/ui" below it. */
const BASE = new URL("..", location.href).href.replace(/\/$/, "")

/** A request that was refused, or that got no answer (`status` 0). */
export class Problem extends Error {
  /**
   * @param {number} status
   * @param {string} code such as "stream-not-found"
   * @param {string} message
   */
  constructor(status, code, message) {
    super(message)
    this.status = status
    this.code = code
  }

  /** Whether the same request may succeed later. */
  get temporary() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  /** @param {string} value empty to forget it */
  set(value) {
    if (value) sessionStorage.setItem(TOKEN, value)
    else sessionStorage.removeItem(TOKEN)
  },
}

/**
 * The path of a stream as it stands in a URL.
 *
 * @param {string} path
 */
export const encodePath = (path) => path.split("/").map(encodeURIComponent).join("/")

/** @param {string} path */
export const urlOf = (path) => BASE + encodePath(path)

/**
 * @typedef {{
 *   query?: Record<string, string>, headers?: Record<string, string>, body?: BodyInit, signal?: AbortSignal,
 * }} RequestOptions
 */

/**
 * @param {string} method
 * @param {string} path of a stream, or one of the server's own endpoints
 * @param {RequestOptions} [options]
 * @returns {Promise<Response>} with a status below 400
 */
export async function request(method, path, { query = {}, headers = {}, body, signal } = {}) {
  const search = new URLSearchParams(query).toString()
  const url = urlOf(path) + (search && `?${search}`)
  const all = { ...headers, ...(token.get() && { Authorization: `Bearer ${token.get()}` }) }
  let response
  try {
    response = await fetch(url, { method, headers: all, body, signal, cache: "no-store", credentials: "omit" })
  } catch (error) {
    if (signal?.aborted) throw error
    throw new Problem(0, "", "The server cannot be reached.")
  }
  if (response.status < 400) return response
  const told = await response.json().catch(() => ({}))
  const message = typeof told.detail === "string" ? told.detail : `The server answered ${response.status}.`
  throw new Problem(response.status, typeof told.code === "string" ? told.code : "", message)
}

/**
 * A piece of a stream.
 *
 * @typedef {{
 *   data: Uint8Array, contentType: string, previous: string, next: string, upToDate: boolean, closed: boolean,
 * }} Page `previous` is what to pass as `before` to get what comes before it; empty at the beginning, or if not known
 */

/**
 * @param {string} path
 * @param {Record<string, string>} query
 * @param {AbortSignal} signal
 * @returns {Promise<Page & { cursor: string }>}
 */
export async function read(path, query, signal) {
  const response = await request("GET", path, { query, signal })
  let buffer
  try {
    buffer = await response.arrayBuffer()
  } catch (error) {
    if (signal.aborted) throw error
    throw new Problem(0, "", "The connection was lost.")
  }
  const { headers } = response
  return {
    data: new Uint8Array(buffer),
    contentType: headers.get("Content-Type") ?? "",
    previous: headers.get("Stream-Previous-Offset") ?? "",
    next: headers.get("Stream-Next-Offset") ?? "",
    cursor: headers.get("Stream-Cursor") ?? "",
    upToDate: headers.get("Stream-Up-To-Date") === "true" || headers.get("Stream-Closed") === "true",
    closed: headers.get("Stream-Closed") === "true",
  }
}

/**
 * Follow a stream by long-polls, which are exact to the byte, until it is closed, refused or `signal` says so.
 *
 * @param {string} path
 * @param {string} offset
 * @param {{
 *   onPage: (page: Page) => unknown, onState: (state: "live" | "waiting") => void, signal: AbortSignal,
 * }} options
 */
export async function follow(path, offset, { onPage, onState, signal }) {
  let cursor = ""
  for (let failures = 0; !signal.aborted;) {
    try {
      onState("live")
      const page = await read(path, { offset, live: "long-poll", ...(cursor && { cursor }) }, signal)
      failures = 0
      offset = page.next
      cursor = page.cursor
      await onPage(page)
      if (page.closed) return
    } catch (error) {
      if (signal.aborted) return
      if (!(error instanceof Problem && error.temporary)) throw error
      onState("waiting")
      await pause(Math.min(PAUSE_MS.most, PAUSE_MS.first * 2 ** failures++), signal)
    }
  }
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal
 */
function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve(undefined)), { once: true })
    addEventListener("online", resolve, { once: true, signal })
  })
}
