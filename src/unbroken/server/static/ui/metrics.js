// @ts-check
/** The server's metrics, as numbers and as what they did within the last seconds. */

import { Problem, request } from "./api.js"
import { explain } from "./dialogs.js"
import { duration, element, size, visible } from "./format.js"

const EVERY_MS = 2_000
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
    const values = new Map(families.flatMap(({ samples }) => samples.map(({ name, labels, value }) => [name + labels, value])))
    /** @param {Sample} sample */
    const rate = ({ name, labels, value }) => {
      const before = this.#before.values.get(name + labels)
      return before === undefined || value < before ? NaN : (value - before) / seconds
    }
    const open = new Set([...this.#root.querySelectorAll("details[open]")].map((each) => each.id))
    const tables = families.map((family) => drawFamily(family, rate, open))
    this.#root.querySelector(".tables")?.replaceChildren(...tables)
    this.#tell(`${families.length} kinds, every ${duration(EVERY_MS / 1000)}`)
    this.#before = { at: now, values }
  }
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
  const [main] = summarise(type, name, samples, rate)
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
 * @returns {[string]}
 */
function summarise(type, name, samples, rate) {
  if (type === "histogram") return [`p50 ${quantile(name, samples, 0.5)}  p99 ${quantile(name, samples, 0.99)}`]
  const sum = samples.reduce((all, { value }) => all + value, 0)
  if (type !== "counter") return [format(name, sum)]
  const each = samples.reduce((all, sample) => all + (rate(sample) || 0), 0)
  return [`${format(name, sum)}${each ? `  ${format("", each)}/s` : ""}`]
}

/**
 * @param {string} name
 * @param {Sample[]} samples
 * @param {number} wanted
 */
function quantile(name, samples, wanted) {
  const counts = /** @type {Map<number, number>} */ (new Map())
  for (const sample of samples) {
    const [, bound] = /le="([^"]*)"/.exec(sample.labels) ?? []
    if (bound === undefined) continue
    const at = bound === "+Inf" ? Infinity : Number(bound)
    counts.set(at, (counts.get(at) ?? 0) + sample.value)
  }
  const bounds = [...counts.keys()].sort((one, other) => one - other)
  const total = counts.get(Infinity) ?? 0
  if (!total) return "\u2014"
  const found = bounds.find((bound) => (counts.get(bound) ?? 0) >= wanted * total) ?? Infinity
  return found === Infinity ? `> ${format(name, bounds.at(-2) ?? 0)}` : `\u2264 ${format(name, found)}`
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
  if (/_bytes(_total|_sum)?$/.test(name)) return size(Math.round(value))
  if (/start_time|timestamp/.test(name)) return new Date(value * 1000).toLocaleString()
  if (/_seconds(_total|_sum)?$/.test(name)) return value >= 1 || !value ? duration(value) : `${Number((value * 1000).toPrecision(3))} ms`
  return Number(value.toPrecision(value >= 1000 ? 15 : 3)).toLocaleString("en")
}
