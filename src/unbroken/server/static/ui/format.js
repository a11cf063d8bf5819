// @ts-check
/**
 * Content and names as they are shown. All of it may be hostile: it becomes text, never markup, and characters that
 * would hide, reorder or overprint others are shown by their number.
 */

const PREVIEW = 400
const PRETTY_MOST = 100_000

/** C0 and C1 controls, bidirectional controls, and characters without width. */
const HIDDEN = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g
/** Strings, also one that is cut off; punctuation; numbers and words. White space between them is not shown. */
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?$)|[{}[\],:]|[^\s"{}[\],:]+/gs
const utf8 = new TextDecoder("utf-8", { ignoreBOM: true })

/** @param {Uint8Array} data */
export const decode = (data) => utf8.decode(data)

/** @param {string} text */
export const visible = (text) =>
  text.replace(HIDDEN, (character) => `\u27e8${(character.codePointAt(0) ?? 0).toString(16).toUpperCase()}\u27e9`)

/**
 * @param {string} name
 * @param {string} [className]
 * @param {string} [text]
 */
export function element(name, className = "", text = "") {
  const made = document.createElement(name)
  if (className) made.className = className
  if (text) made.textContent = text
  return made
}

/** @param {string} contentType */
export function kindOf(contentType) {
  const [type] = contentType.toLowerCase().split(";")
  if (type.trim() === "application/json") return "json"
  return type.trim().startsWith("text/") ? "text" : "bytes"
}

/**
 * The messages of an array, each as it stands there: no number is rounded, no key is dropped.
 *
 * @param {string} text a JSON array
 * @returns {string[]}
 */
export function splitArray(text) {
  const found = []
  let [depth, start] = [0, 0]
  for (const match of text.matchAll(/"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],]/gs)) {
    const [token] = match
    const at = match.index ?? 0
    if (token === "[" || token === "{") {
      if (++depth === 1) start = at + 1
    } else if (token === "]" || token === "}") {
      if (--depth === 0 && text.slice(start, at).trim()) found.push(text.slice(start, at))
    } else if (token === "," && depth === 1) {
      found.push(text.slice(start, at))
      start = at + 1
    }
  }
  return found
}

/**
 * JSON in colours: the beginning of it on one line, or all of it, within reason, on several.
 *
 * @param {string} raw
 * @param {{ pretty?: boolean }} [options]
 */
export function colourJson(raw, { pretty = false } = {}) {
  const most = pretty ? PRETTY_MOST : PREVIEW
  const tokens = raw.slice(0, most).match(TOKENS) ?? []
  const shown = document.createDocumentFragment()
  let depth = 0
  const breakLine = () => shown.append(`\n${"  ".repeat(Math.max(0, depth))}`)
  tokens.forEach((token, at) => {
    const [before, after] = [tokens[at - 1], tokens[at + 1]]
    const closes = token === "}" || token === "]"
    if (closes) depth--
    if (closes && pretty && before !== "{" && before !== "[") breakLine()
    shown.append(colourToken(token, after))
    const opens = token === "{" || token === "["
    if (opens) depth++
    if (pretty && ((opens && after !== "}" && after !== "]") || token === ",")) breakLine()
    else if (token === ":" || token === ",") shown.append(" ")
  })
  if (raw.length > most) shown.append(element("span", "cut", pretty ? `\n… ${size(raw.length)} in all` : "…"))
  return shown
}

/**
 * @param {string} token
 * @param {string | undefined} after
 */
function colourToken(token, after) {
  const [first] = token
  if (first === '"') return element("span", after === ":" ? "key" : "string", visible(token))
  if (/[{}[\],:]/.test(first)) return element("span", "mark", token)
  return element("span", /[-\d]/.test(first) ? "number" : "word", visible(token))
}

/**
 * A dump as hexdump -C makes it.
 *
 * @param {Uint8Array} data
 * @param {number} start position of the first byte
 * @param {number} width bytes on a line
 */
export function hexDump(data, start, width) {
  const lines = []
  for (let at = 0; at < data.length; at += width) {
    const row = data.subarray(at, at + width)
    const hex = Array.from(row, (byte) => byte.toString(16).padStart(2, "0"))
    const text = Array.from(row, (byte) => (byte > 0x1f && byte < 0x7f ? String.fromCharCode(byte) : "·")).join("")
    const columns = [hex.slice(0, 8), hex.slice(8)]
      .map((half) => half.join(" "))
      .join("  ")
      .trimEnd()
      .padEnd(width * 3)
    lines.push(`${(start + at).toString(16).padStart(8, "0")}  ${columns}  ${text}`)
  }
  return lines.join("\n")
}

/**
 * @param {string} text hexadecimal digits, with or without spaces between
 * @returns {Uint8Array<ArrayBuffer> | null}
 */
export function parseHex(text) {
  const digits = text.replace(/\s+/g, "")
  if (!/^([0-9a-f]{2})*$/i.test(digits)) return null
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16))
}

/** @param {number} bytes */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`
  const units = ["kB", "MB", "GB", "TB", "PB"]
  let value = bytes / 1000
  let unit = 0
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`
}

/**
 * The byte position in an offset of this server.
 *
 * @param {string} offset
 */
export const positionIn = (offset) => Number(/^\d{16}_(\d{16})$/.exec(offset)?.[1] ?? NaN)

/** @param {number} seconds */
export function duration(seconds) {
  for (const [unit, name] of /** @type {const} */ ([
    [86_400, "d"],
    [3_600, "h"],
    [60, "min"],
  ])) {
    if (seconds >= 2 * unit) return `${Math.round(seconds / unit)} ${name}`
  }
  return `${Math.round(seconds)} s`
}

/** @param {string} time */
export function age(time) {
  const seconds = (Date.now() - Date.parse(time)) / 1000
  return Number.isNaN(seconds) ? "" : seconds < 5 ? "now" : duration(seconds)
}
