// @ts-check
/**
 * One stream: a window of it that grows at either end, and what can be done to it.
 */

import { encodePath, follow, Problem, read, request } from "./api.js"
import { ask, confirm, explain, toast } from "./dialogs.js"
import {
  colourJson,
  decode,
  element,
  hexDump,
  kindOf,
  parseHex,
  positionIn,
  size,
  splitArray,
  visible,
} from "./format.js"

/** What the window holds at most, about. Beyond it pages are dropped at the end that is not looked at. */
const MOST = { bytes: 1_000_000, rows: 5_000 }
const PAGE = { limit: "32768" }
/** So many rows are laid out, or left out while they are not in sight, together. */
const CHUNK = 50
const GONE = ["stream-not-found", "stream-gone"]
/** Closer to the bottom than this, it stays there. */
const BOTTOM_PX = 40
const NARROW_PX = 620

const VIEWS = { json: ["Messages", "Text", "Hex"], text: ["Text", "Hex"], bytes: ["Hex", "Text"] }

/**
 * @typedef {import("./api.js").Page & { block?: HTMLElement, rows: string[] }} Piece
 */

export class StreamView {
  path
  #root
  #onChange
  #left = new AbortController()
  #following = /** @type {AbortController | null} */ (null)
  #pieces = /** @type {Piece[]} */ ([])
  #view = ""
  /** Of the text that is shown, which goes on where the last piece ended. */
  #decoder = new TextDecoder()
  /** @type {"json" | "text" | "bytes"} */
  #kind = "bytes"
  #facts = { type: "", tail: "", closed: false, ttl: "", until: "" }

  /**
   * @param {string} path
   * @param {HTMLElement} root an instance of the template "stream"
   * @param {{ onChange: () => void }} options called when the list of streams may have changed
   */
  constructor(path, root, { onChange }) {
    this.path = path
    this.#root = root
    this.#onChange = onChange
    this.#find("h1 bdi").textContent = visible(path)
    this.#find(".earlier").addEventListener("click", () => this.#run(() => this.earlier()))
    this.#find(".follow").addEventListener("click", () => this.toggle())
    this.#find(".newer").addEventListener("click", () => this.#scrollDown())
    this.#find(".content").addEventListener("scroll", () => this.#isAtBottom && (this.#newer.hidden = true))
    this.#find(".jump").addEventListener("change", () => this.#jump())
    this.#find(".copy").addEventListener("click", () => this.#copy())
    this.#find(".fork").addEventListener("click", () => this.#fork())
    this.#find(".close").addEventListener("click", () => this.#close())
    this.#find(".delete").addEventListener("click", () => this.#delete())
    const composer = this.#composer
    composer.addEventListener("submit", (event) => {
      event.preventDefault()
      this.#run(() => this.#append())
    })
    composer.elements.text.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) composer.requestSubmit()
    })
    composer.elements.text.addEventListener("input", () => this.#fit())
    composer.elements.file.addEventListener("change", () => this.#run(() => this.#appendFile()))
  }

  /** Show its end, and follow. */
  async open() {
    const { signal } = this.#left
    try {
      const page = await read(this.path, { before: "now", ...PAGE }, signal)
      this.#facts.type = page.contentType
      this.#kind = kindOf(page.contentType)
      this.#root.dataset.kind = this.#kind
      this.#place(page)
      this.#offerViews()
      this.#showFacts()
      if (!page.closed) this.toggle(true)
      const { headers } = await request("HEAD", this.path, { signal })
      this.#facts.ttl = headers.get("Stream-TTL") ?? ""
      this.#facts.until = headers.get("Stream-Expires-At") ?? ""
      this.#showFacts()
    } catch (error) {
      if (signal.aborted) return
      if (!(error instanceof Problem)) throw error
      this.#refused(error)
    }
  }

  /** Nobody looks at it any more. */
  leave() {
    this.#left.abort()
    this.#following?.abort()
  }

  /** @param {boolean} [on] */
  toggle(on = !this.#following) {
    this.#following?.abort()
    this.#following = null
    if (on && !this.#facts.closed) this.#run(() => this.#follow())
    this.#showState(this.#following ? "live" : "")
  }

  async earlier() {
    const [first] = this.#pieces
    if (!first?.previous) return
    const piece = this.#piece(await read(this.path, { before: first.previous, ...PAGE }, this.#left.signal))
    const content = this.#content
    const fromBottom = content.scrollHeight - content.scrollTop
    this.#pieces.unshift(piece)
    this.#trim("bottom")
    this.#draw()
    content.scrollTop = content.scrollHeight - fromBottom
  }

  nextView() {
    const views = VIEWS[this.#kind]
    this.#show(views[(views.indexOf(this.#view) + 1) % views.length])
  }

  write() {
    this.#composer.elements.text.focus()
  }

  // --- reading -----------------------------------------------------------------------------------------------------

  /**
   * Show another place.
   *
   * @param {Record<string, string>} query
   */
  async #begin(query) {
    this.toggle(false)
    const page = await read(this.path, { ...query, ...PAGE }, this.#left.signal)
    if (query.offset && query.offset !== "-1") page.previous = query.offset
    this.#place(page)
    this.#draw()
    if (query.before) this.#scrollDown()
    else this.#content.scrollTop = 0
  }

  /** @param {import("./api.js").Page} page */
  #place(page) {
    this.#pieces = [this.#piece(page)]
    this.#note(page)
  }

  async #follow() {
    const last = this.#pieces.at(-1)
    if (!last) return
    const following = new AbortController()
    this.#following = following
    const signal = AbortSignal.any([following.signal, this.#left.signal])
    try {
      await follow(this.path, last.next, {
        signal,
        onPage: (page) => this.#arrived(page, signal),
        onState: (state) => this.#showState(state),
      })
    } finally {
      if (this.#following === following) this.toggle(false)
    }
  }

  async #later() {
    const last = this.#pieces.at(-1)
    if (last)
      await this.#arrived(await read(this.path, { offset: last.next, ...PAGE }, this.#left.signal), this.#left.signal)
  }

  /**
   * @param {import("./api.js").Page} page
   * @param {AbortSignal} signal
   */
  async #arrived(page, signal) {
    this.#note(page)
    if (!page.data.length) return this.#showPlace()
    page.previous = this.#pieces.at(-1)?.next ?? ""
    let piece = this.#piece(page)
    const isAtBottom = this.#isAtBottom
    const isTooMuch = page.data.length > MOST.bytes || piece.rows.length > MOST.rows
    if (isTooMuch) {
      // More than anybody looks at: its end will do.
      piece = this.#piece({
        ...(await read(this.path, { before: page.next, ...PAGE }, signal)),
        closed: page.closed,
      })
      this.#pieces = [piece]
      this.#draw()
    } else {
      this.#pieces.push(piece)
      this.#drawPiece(piece, true)
      this.#trim("top")
      this.#showPlace()
    }
    if (isAtBottom && this.#following) this.#scrollDown()
    else this.#newer.hidden = this.#isAtBottom
  }

  /**
   * @param {import("./api.js").Page} page
   * @returns {Piece}
   */
  #piece(page) {
    if (this.#kind !== "json") return { ...page, rows: [] }
    const rows = splitArray(decode(page.data))
    return { ...page, rows, data: rows.length ? page.data : new Uint8Array() }
  }

  /** @param {"top" | "bottom"} side */
  #trim(side) {
    let bytes = this.#pieces.reduce((sum, piece) => sum + piece.data.length, 0)
    let rows = this.#pieces.reduce((sum, piece) => sum + piece.rows.length, 0)
    while ((bytes > MOST.bytes || rows > MOST.rows) && this.#pieces.length > 1) {
      const dropped = side === "top" ? this.#pieces.shift() : this.#pieces.pop()
      bytes -= dropped?.data.length ?? 0
      rows -= dropped?.rows.length ?? 0
      dropped?.block?.remove()
      if (side === "bottom") this.toggle(false)
    }
  }

  // --- drawing -----------------------------------------------------------------------------------------------------

  #offerViews() {
    const buttons = VIEWS[this.#kind].map((name) => {
      const button = element("button", "", name)
      button.setAttribute("type", "button")
      button.addEventListener("click", () => this.#show(name))
      return button
    })
    this.#find(".views").replaceChildren(...buttons)
    this.#show(VIEWS[this.#kind][0])
  }

  /** @param {string} view */
  #show(view) {
    this.#view = view
    for (const button of this.#root.querySelectorAll(".views button")) {
      button.setAttribute("aria-pressed", String(button.textContent === view))
    }
    this.#draw()
    this.#scrollDown()
  }

  #draw() {
    this.#content.replaceChildren()
    if (this.#view !== "Messages") this.#content.append(element("pre", "flow"))
    this.#decoder = new TextDecoder("utf-8", { ignoreBOM: true })
    for (const piece of this.#pieces) this.#drawPiece(piece, false)
    const isEmpty = !this.#pieces.some((piece) => piece.data.length)
    if (isEmpty && this.#pieces.length) this.#content.append(element("p", "empty", "Nothing here yet."))
    this.#showPlace()
  }

  /**
   * @param {Piece} piece
   * @param {boolean} isNew
   */
  #drawPiece(piece, isNew) {
    if (!piece.data.length) return
    this.#content.querySelector(".empty")?.remove()
    const block = element(this.#view === "Messages" ? "div" : "span", isNew ? "block new" : "block")
    if (this.#view === "Messages") block.append(...drawRows(piece.rows))
    else block.textContent = this.#view === "Text" ? visible(this.#text(piece)) : this.#dump(piece)
    piece.block = block
    const parent = this.#view === "Messages" ? this.#content : this.#content.querySelector("pre.flow")
    parent?.append(block)
  }

  /**
   * What is to be shown of the next piece. A character of which it has but the beginning is shown with its end.
   *
   * @param {Piece} piece
   */
  #text(piece) {
    if (this.#kind === "json") return `${piece.rows.map((row) => row.trim()).join("\n")}\n`
    const isCut = piece === this.#pieces[0] && piece.previous
    return this.#decoder.decode(isCut ? piece.data.subarray(countRest(piece.data)) : piece.data, { stream: true })
  }

  /** @param {Piece} piece */
  #dump(piece) {
    return `${hexDump(piece.data, this.#start(piece), this.#content.clientWidth < NARROW_PX ? 8 : 16)}\n`
  }

  /** @param {Piece} piece */
  #start(piece) {
    return this.#kind === "json" ? 0 : positionIn(piece.next) - piece.data.length || 0
  }

  /** @param {import("./api.js").Page} page */
  #note({ next, upToDate, closed }) {
    const { tail, closed: wasClosed } = this.#facts
    if (upToDate) this.#facts.tail = next
    if (closed) this.#facts.closed = true
    if (tail !== this.#facts.tail || wasClosed !== this.#facts.closed) this.#showFacts()
  }

  #showFacts() {
    const { type, tail, closed, ttl, until } = this.#facts
    const lifetime = ttl ? `${ttl} s after each use` : until ? `until ${until}` : ""
    const all = { Type: visible(type), Size: size(positionIn(tail) || 0), End: tail, Lifetime: lifetime }
    const shown = Object.entries(all).filter(([, value]) => value)
    this.#find(".facts").replaceChildren(
      ...shown.map(([name, value]) => {
        const fact = element("div")
        fact.append(element("dt", "", name), element("dd", name.toLowerCase(), value))
        return fact
      }),
    )
    this.#root.dataset.closed = String(closed)
    this.#find(".ended").hidden = !closed
    this.#composer.hidden = closed
    this.#find(".close").hidden = closed
    this.#find(".follow").hidden = closed
    this.#find(".file").hidden = this.#kind === "json"
    const hints = { json: "A message, or an array of messages", text: "Text", bytes: "Bytes: 68 65 6c 6c 6f" }
    this.#composer.elements.text.placeholder = hints[this.#kind]
  }

  #showPlace() {
    const [first, last] = [this.#pieces[0], this.#pieces.at(-1)]
    this.#find(".earlier").toggleAttribute("disabled", !first?.previous)
    const [from, to, all] = [first?.previous, last?.next, this.#facts.tail].map(
      (offset) => positionIn(offset ?? "") || 0,
    )
    const isAll = from === 0 && to >= all
    this.#find(".where").textContent = isAll ? "" : `${size(from)} – ${size(to)} of ${size(Math.max(all, to))}`
    this.#content.querySelector(".later")?.remove()
    if (!last || last.upToDate || this.#following) return
    const later = element("button", "later", "Later")
    later.setAttribute("type", "button")
    later.addEventListener("click", () => this.#run(() => this.#later()))
    this.#content.append(later)
  }

  /** @param {"live" | "waiting" | ""} state */
  #showState(state) {
    const button = this.#find(".follow")
    button.setAttribute("aria-pressed", String(state !== ""))
    button.dataset.state = state
    button.textContent = state === "waiting" ? "Connecting…" : state ? "Live" : "Follow"
    this.#showPlace()
  }

  get #isAtBottom() {
    const { scrollHeight, scrollTop, clientHeight } = this.#content
    return scrollHeight - scrollTop - clientHeight < BOTTOM_PX
  }

  #scrollDown() {
    const content = this.#content
    content.scrollTop = content.scrollHeight
    // Rows that were not in sight until now get their true heights.
    requestAnimationFrame(() => (content.scrollTop = content.scrollHeight))
    this.#newer.hidden = true
  }

  /**
   * Nothing can be shown of it: say why in its place.
   *
   * @param {Problem} problem
   */
  #refused(problem) {
    this.leave()
    this.#root.dataset.refused = "true"
    const place = element("div", "refusal")
    place.append(element("p", "", explain(problem)))
    if (problem.code === "stream-not-found") place.append(action("Create it", "create"))
    if (problem.status === 401 || problem.status === 403) place.append(action("Another token", "token"))
    this.#root.append(place)
  }

  // --- acting ------------------------------------------------------------------------------------------------------

  async #append() {
    const { text } = this.#composer.elements
    if (!text.value) return
    const body = this.#kind === "bytes" ? parseHex(text.value) : text.value
    if (!body) throw new Problem(400, "", "Two hexadecimal digits for each byte, please; or choose a file.")
    await this.#post(body)
    text.value = ""
    this.#fit()
  }

  async #appendFile() {
    const { file } = this.#composer.elements
    const [chosen] = file.files ?? []
    if (!chosen) return
    try {
      await this.#post(chosen)
    } finally {
      file.value = ""
    }
  }

  /** @param {BodyInit} body */
  async #post(body) {
    const button = this.#find(".composer button")
    button.setAttribute("disabled", "")
    try {
      await request("POST", this.path, { headers: { "Content-Type": this.#facts.type }, body })
    } catch (error) {
      if (!(error instanceof Problem) || error.status) throw error
      throw new Problem(0, "", "There was no answer: it may have been appended, or not.")
    } finally {
      button.removeAttribute("disabled")
    }
    if (!this.#following) toast("Appended.")
    else if (!this.#isAtBottom) this.#scrollDown()
  }

  #fit() {
    const { text } = this.#composer.elements
    text.rows = Math.min(8, text.value.split("\n").length)
  }

  #jump() {
    const select = /** @type {HTMLSelectElement} */ (this.#find(".jump"))
    const { value } = select
    select.value = ""
    if (value === "beginning") this.#run(() => this.#begin({ offset: "-1" }))
    else if (value === "latest") this.#run(() => this.#begin({ before: "now" }).then(() => this.toggle(true)))
    else if (value) this.#jumpTo(value)
  }

  /** @param {string} what "time" or "offset" */
  #jumpTo(what) {
    ask("jump", {
      fill: (form, dialog) => {
        dialog.dataset.what = what
        dialog.querySelector("h2").textContent = what === "time" ? "Go to a time" : "Go to an offset"
        form.elements[what].focus()
      },
      submit: async ({ time, offset }) => {
        if (what === "time") await this.#begin({ since: new Date(time.value).toISOString() })
        else await this.#begin({ offset: offset.value.trim() })
      },
    })
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.path)
      toast("Copied.")
    } catch {
      toast("The browser did not let it be copied.", true)
    }
  }

  #fork() {
    ask("fork", {
      fill: (form) => (form.elements.path.value = `${this.path}-fork`),
      submit: async ({ path, offset, past }) => {
        const headers = { "Stream-Forked-From": encodePath(this.path), "Content-Type": this.#facts.type }
        const begin = offset.value.trim() || (past.value ? this.#facts.tail : "")
        if (begin) Object.assign(headers, { "Stream-Fork-Offset": begin })
        if (past.value) Object.assign(headers, { "Stream-Fork-Sub-Offset": past.value })
        const { status } = await request("PUT", path.value, { headers })
        if (status === 200) throw new Problem(409, "", "There is such a fork already.")
        this.#onChange()
        location.hash = encodePath(path.value)
      },
    })
  }

  #close() {
    const what = {
      title: "Close this stream?",
      note: "It stays readable. Nothing can be appended, ever.",
      verb: "Close",
    }
    confirm(what, this.path, async () => {
      const { headers } = await request("POST", this.path, { headers: { "Stream-Closed": "true" } })
      this.#facts.tail = headers.get("Stream-Next-Offset") ?? this.#facts.tail
      this.#facts.closed = true
      this.#showFacts()
      this.#onChange()
    })
  }

  #delete() {
    const what = {
      title: "Delete this stream?",
      note: "Its data is gone for everybody.",
      verb: "Delete",
      isDangerous: true,
    }
    confirm(what, this.path, async () => {
      await request("DELETE", this.path)
      this.leave()
      this.#onChange()
      location.hash = ""
      toast("Deleted.")
    })
  }

  // --- small things ------------------------------------------------------------------------------------------------

  /**
   * Tell what went wrong, if something did.
   *
   * @param {() => Promise<unknown>} action
   */
  async #run(action) {
    try {
      await action()
    } catch (error) {
      if (this.#left.signal.aborted || (error instanceof DOMException && error.name === "AbortError")) return
      if (!(error instanceof Problem)) throw error
      if (GONE.includes(error.code)) this.#refused(error)
      else this.#root.dispatchEvent(new CustomEvent("problem", { detail: error, bubbles: true }))
    }
  }

  /**
   * @param {string} selector
   * @returns {HTMLElement}
   */
  #find(selector) {
    const found = this.#root.querySelector(selector)
    if (!(found instanceof HTMLElement)) throw new Error(`the page has no ${selector}`)
    return found
  }

  get #content() {
    return this.#find(".content")
  }

  get #newer() {
    return this.#find(".newer")
  }

  /** @returns {HTMLFormElement & { elements: { text: HTMLTextAreaElement, file: HTMLInputElement } }} */
  get #composer() {
    return /** @type {any} */ (this.#find(".composer"))
  }
}

/**
 * A button for something that the page around does.
 *
 * @param {string} text
 * @param {string} wanted
 */
function action(text, wanted) {
  const button = element("button", "primary", text)
  button.setAttribute("type", "button")
  button.addEventListener("click", () =>
    button.dispatchEvent(new CustomEvent("wanted", { detail: wanted, bubbles: true })),
  )
  return button
}

/** @param {string[]} rows */
function drawRows(rows) {
  const chunks = []
  for (let at = 0; at < rows.length; at += CHUNK) {
    const chunk = element("div", "rows")
    chunk.append(...rows.slice(at, at + CHUNK).map(drawRow))
    chunk.style.setProperty("--rows", String(chunk.childElementCount))
    chunks.push(chunk)
  }
  return chunks
}

/** @param {string} raw */
function drawRow(raw) {
  const row = element("details", "row")
  const line = element("summary")
  line.append(colourJson(raw))
  row.append(line)
  row.addEventListener("toggle", () => row.childElementCount === 1 && row.append(drawWhole(raw)), { once: true })
  return row
}

/** @param {string} raw */
function drawWhole(raw) {
  const whole = element("div", "whole")
  const text = element("pre")
  text.append(colourJson(raw, { pretty: true }))
  const copy = element("button", "", "Copy")
  copy.setAttribute("type", "button")
  copy.addEventListener("click", () => navigator.clipboard?.writeText(raw.trim()))
  whole.append(text, copy)
  return whole
}

/**
 * How many bytes at the beginning belong to a character that began before.
 *
 * @param {Uint8Array} data UTF-8
 */
function countRest(data) {
  let count = 0
  while (count < Math.min(3, data.length) && (data[count] & 0xc0) === 0x80) count++
  return count
}
