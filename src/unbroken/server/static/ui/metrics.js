// @ts-check
/** The server's metrics, as numbers and as what they did within the last seconds. */

import { Problem, request } from "./api.js"
import { explain } from "./dialogs.js"
import { duration, element, size, visible } from "./format.js"

const EVERY_MS = 2_000
/** How many points a curve has: two minutes. */
const POINTS = 60
/** What is looked at first, if the server has it: by name, what of it, and what it is called. */
const CARDS = /** @type {const} */ ([
  ["unbroken_http_requests_total", "rate", "Requests"],
  ["unbroken_append_seconds", "p99", "Append, p99"],
  ["unbroken_live_reads", "value", "Live reads"],
  ["unbroken_streams", "value", "Streams"],
  ["unbroken_stored_bytes", "value", "Stored"],
  ["unbroken_log_bytes", "value", "Write-ahead log"],
])
const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g

/**
 * @typedef {{ name: string, labels: string, value: number }} Sample
 * @typedef {{ name: string, type: string, help: string, samples: Sample[] }} Family
 */

export class MetricsView {
  #root
  #left = new AbortController()
  #timer = 0
  #before = { at: 0, values: /** @type {Map<string, number>} */ (new Map()) }
  #curves = /** @type {Map<string, number[]>} */ (new Map())

  /** @param {HTMLElement} root an instance of the template "metrics" */
  constructor(root) {
    this.#root = root
  }

  async open() {
    try {
      const response = await request("GET", "/-/metrics", { signal: this.#left.signal })
      this.#show(parseMetrics(await response.text()))
    } catch (error) {
      if (this.#left.signal.aborted) return
      if (!(error instanceof Problem)) throw error
      this.#tell(error.status === 404 ? "This server has no metrics." : explain(error))
      if (!error.temporary) return
    }
    this.#timer = setTimeout(() => this.open(), EVERY_MS)
  }

  leave() {
    this.#left.abort()
    clearTimeout(this.#timer)
  }

  /** @param {string} text */
  #tell(text) {
    const note = this.#root.querySelector(".note")
    if (note) note.textContent = text
  }

  /** @param {Family[]} families */
  #show(families) {
    const now = performance.now()
    const seconds = (now - this.#before.at) / 1000
    const values = new Map(
      families.flatMap(({ samples }) => samples.map(({ name, labels, value }) => [name + labels, value])),
    )
    /** @param {Sample} sample */
    const rate = ({ name, labels, value }) => {
      const before = this.#before.values.get(name + labels)
      return before === undefined || value < before ? NaN : (value - before) / seconds
    }
    this.#root.querySelector(".cards")?.replaceChildren(...this.#cards(families, rate))
    const open = new Set([...this.#root.querySelectorAll("details[open]")].map((each) => each.id))
    const tables = families.map((family) => drawFamily(family, rate, open))
    const focused = document.activeElement?.closest(".family")?.id
    this.#root.querySelector(".tables")?.replaceChildren(...tables)
    if (focused) document.getElementById(focused)?.querySelector("summary")?.focus()
    this.#tell(`${families.length} kinds, every ${duration(EVERY_MS / 1000)}`)
    this.#before = { at: now, values }
  }

  /**
   * @param {Family[]} families
   * @param {(sample: Sample) => number} rate
   */
  #cards(families, rate) {
    return CARDS.flatMap(([name, what, title]) => {
      const family = families.find((each) => each.name === name)
      if (!family) return []
      const value = measure(family, what, rate)
      const curve = [...(this.#curves.get(title) ?? []), value].slice(-POINTS)
      this.#curves.set(title, curve)
      const card = element("div", "card")
      const unit = what === "rate" ? "/s" : ""
      const text = Number.isNaN(value) ? "\u2014" : format(what === "rate" ? "" : name, value) + unit
      card.append(element("span", "title", title), element("span", "figure", text), drawCurve(curve))
      return [card]
    })
  }
}

/**
 * @param {Family} family
 * @param {"rate" | "p99" | "value"} what
 * @param {(sample: Sample) => number} rate
 */
function measure({ samples }, what, rate) {
  if (what === "rate") return samples.reduce((sum, sample) => sum + rate(sample), 0)
  if (what === "value") return samples.reduce((sum, { value }) => sum + value, 0)
  // Of the last seconds, if anything happened in them.
  const recent = samples.map((sample) => ({ ...sample, value: rate(sample) || 0 }))
  return quantile(recent, 0.99) ?? quantile(samples, 0.99) ?? NaN
}

/** @param {number[]} values */
function drawCurve(values) {
  const known = values.filter((value) => !Number.isNaN(value))
  const most = Math.max(...known, 0) || 1
  const points = known.map(
    (value, at) => `${100 - (known.length - 1 - at) * (100 / POINTS)},${29 - (27 * value) / most}`,
  )
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg")
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline")
  svg.setAttribute("viewBox", "0 0 100 30")
  svg.setAttribute("preserveAspectRatio", "none")
  svg.setAttribute("aria-hidden", "true")
  line.setAttribute("points", points.join(" "))
  svg.append(line)
  return svg
}

/**
 * @param {string} text in Prometheus' text format
 * @returns {Family[]}
 */
export function parseMetrics(text) {
  const families = /** @type {Map<string, Family>} */ (new Map())
  for (const line of text.split("\n")) {
    const [, keyword, name, rest] = /^# (HELP|TYPE) (\S+) ?(.*)$/.exec(line) ?? []
    if (keyword) {
      const family = families.get(name) ?? { name, type: "untyped", help: "", samples: [] }
      families.set(name, keyword === "HELP" ? { ...family, help: rest } : { ...family, type: rest })
      continue
    }
    const [, sample, labels = "", value] = SAMPLE.exec(line) ?? []
    if (!sample || line.startsWith("#")) continue
    const owner = families.get(sample) ?? families.get(sample.replace(/_(bucket|sum|count|total|created)$/, ""))
    const family = owner ?? { name: sample, type: "untyped", help: "", samples: [] }
    families.set(family.name, family)
    if (!sample.endsWith("_created")) family.samples.push({ name: sample, labels, value: Number(value) })
  }
  return [...families.values()].filter(({ samples }) => samples.length)
}

/**
 * @param {Family} family
 * @param {(sample: Sample) => number} rate
 * @param {Set<string>} open
 */
function drawFamily({ name, type, help, samples }, rate, open) {
  const row = element("details", "family")
  row.id = `metric-${name}`
  if (open.has(row.id)) row.setAttribute("open", "")
  const line = element("summary")
  const main = summarise(type, name, samples, rate)
  line.append(element("span", "name", name), element("span", "value", main), element("span", "help", visible(help)))
  const table = element("table")
  for (const sample of samples) {
    const cells = element("tr")
    const label = sample.name.slice(name.length) + describe(sample.labels)
    const each = type === "gauge" ? NaN : rate(sample)
    cells.append(element("td", "", label || "\u2014"), element("td", "number", format(sample.name, sample.value)))
    cells.append(element("td", "number", Number.isNaN(each) ? "" : `${format("", each)}/s`))
    table.append(cells)
  }
  row.append(line, table)
  return row
}

/**
 * @param {string} type
 * @param {string} name
 * @param {Sample[]} samples
 * @param {(sample: Sample) => number} rate
 */
function summarise(type, name, samples, rate) {
  if (type === "histogram") {
    const [half, most] = [0.5, 0.99].map((wanted) => quantile(samples, wanted))
    return half === undefined || most === undefined ? "\u2014" : `p50 ${format(name, half)}  p99 ${format(name, most)}`
  }
  const sum = samples.reduce((all, { value }) => all + value, 0)
  if (type !== "counter") return format(name, sum)
  const each = samples.reduce((all, sample) => all + (rate(sample) || 0), 0)
  return `${format(name, sum)}${each ? `  ${format("", each)}/s` : ""}`
}

/**
 * The bound of the histogram below which so many are.
 *
 * @param {Sample[]} samples
 * @param {number} wanted 0 to 1
 */
function quantile(samples, wanted) {
  const counts = /** @type {Map<number, number>} */ (new Map())
  for (const { labels, value } of samples) {
    const [, bound] = /le="([^"]*)"/.exec(labels) ?? []
    const at = bound === "+Inf" ? Infinity : Number(bound)
    if (bound !== undefined) counts.set(at, (counts.get(at) ?? 0) + value)
  }
  const bounds = [...counts.keys()].sort((one, other) => one - other)
  const total = counts.get(Infinity) ?? 0
  return total ? bounds.find((bound) => (counts.get(bound) ?? 0) >= wanted * total) : undefined
}

/** @param {string} labels */
function describe(labels) {
  return [...labels.matchAll(LABEL)].map(([, name, value]) => ` ${name}=${visible(value)}`).join("")
}

/**
 * @param {string} name tells the unit
 * @param {number} value
 */
function format(name, value) {
  if (!Number.isFinite(value)) return value === Infinity ? "beyond" : "\u2014"
  if (/_bytes(_total|_sum)?$/.test(name)) return size(Math.round(value))
  if (/start_time|timestamp/.test(name)) return new Date(value * 1000).toLocaleString()
  if (/_seconds(_total|_sum)?$/.test(name)) {
    return value >= 1 || !value ? duration(value) : `${Number((value * 1000).toPrecision(3))} ms`
  }
  return Number(value.toPrecision(value >= 1000 ? 15 : 3)).toLocaleString("en")
}
