// @ts-check
/** The page: which of its places is shown, the list of streams, the token, the keyboard. */

import { encodePath, Problem, request, token, urlOf } from "./api.js"
import { ask, explain, toast } from "./dialogs.js"
import { age, element, kindOf, positionIn, size, visible } from "./format.js"
import { MetricsView } from "./metrics.js"
import { StreamView } from "./stream.js"

const LISTED = 200
const SEARCH_MS = 150
const AGAIN_MS = 10_000

/** @param {string} id */
const byId = (id) => /** @type {any} */ (document.getElementById(id))

// --- places ----------------------------------------------------------------------------------------------------------

/** @type {{ leave: () => void } | null} */
let shown = null

/** @param {string} id */
function instance(id) {
  return /** @type {HTMLElement} */ (byId(id).content.firstElementChild.cloneNode(true))
}

function go() {
  shown?.leave()
  shown = null
  const place = location.hash.slice(1)
  document.body.dataset.place = place.startsWith("/") ? "stream" : place === "metrics" ? "metrics" : "list"
  document.title = "Inspector"
  if (place.startsWith("/")) showStream(place)
  else if (place === "metrics") showMetrics()
  else showWelcome()
  markChosen()
  revealChosen()
}

/** @param {string} place the stream's path, encoded */
function showStream(place) {
  let path
  try {
    path = place.split("/").map(decodeURIComponent).join("/")
  } catch {
    return toast("The address of this page is damaged.", true)
  }
  document.title = visible(path)
  const root = instance("stream")
  byId("main").replaceChildren(root)
  const view = new StreamView(path, root, { onChange: list })
  shown = view
  view.open()
}

function showMetrics() {
  const root = instance("metrics")
  byId("main").replaceChildren(root)
  const view = new MetricsView(root)
  shown = view
  view.open()
}

function showWelcome() {
  const root = instance("welcome")
  const form = /** @type {HTMLFormElement} */ (root.querySelector("form"))
  form.addEventListener("submit", (event) => {
    event.preventDefault()
    show(asPath(/** @type {any} */ (form.elements).path.value))
  })
  const url = urlOf("/hello")
  const auth = token.get() ? ` -H "Authorization: Bearer $TOKEN"` : ""
  const lines = [
    `curl${auth} -X PUT -H 'Content-Type: text/plain' ${url}`,
    `curl${auth} -X POST -H 'Content-Type: text/plain' -d 'hello' ${url}`,
    `curl${auth} -N '${url}?offset=-1&live=sse'`,
  ]
  const curl = /** @type {HTMLElement} */ (root.querySelector(".curl"))
  curl.textContent = lines.join("\n")
  byId("main").replaceChildren(root)
}

/** @param {string} path */
function show(path) {
  const hash = `#${encodePath(path)}`
  if (location.hash === hash) go()
  else location.hash = hash
}

/** @param {string} text */
const asPath = (text) => (text.startsWith("/") ? text : `/${text}`)

// --- the list --------------------------------------------------------------------------------------------------------

/** @typedef {{ path: string, contentType: string, nextOffset: string, createdAt: string, closed?: boolean }} Listed */

let listing = new AbortController()
let next = ""
/** Whether what is listed may be fetched anew without being asked: all of it is there, and nobody is walking in it. */
let isRenewed = false

/** @param {{ more?: boolean }} [how] */
async function list({ more = false } = {}) {
  listing.abort()
  listing = new AbortController()
  const { signal } = listing
  const isFirst = !byId("list").childElementCount
  const prefix = byId("prefix").value
  const query = { prefix: prefix && asPath(prefix), after: more ? next : "", limit: String(LISTED) }
  const given = Object.fromEntries(Object.entries(query).filter(([, value]) => value))
  try {
    const response = await request("GET", "/-/streams", { query: given, signal })
    const found = await response.json()
    const rows = found.streams.map(drawListed)
    next = found.next ?? ""
    isRenewed = !more
    if (more) byId("list").append(...rows)
    else byId("list").replaceChildren(...rows)
    const count = byId("list").childElementCount
    byId("count").textContent = count
      ? `${count}${next ? "+" : ""} streams`
      : prefix
        ? "None begin so."
        : "No streams yet."
    if (count === 1) byId("count").textContent = "1 stream"
  } catch (error) {
    if (signal.aborted) return
    if (!(error instanceof Problem)) throw error
    next = ""
    isRenewed = false
    byId("list").replaceChildren()
    const isRefused = error.status === 401 || error.status === 403
    byId("count").textContent = isRefused ? "" : explain(error)
    if (isRefused) byId("list").append(refusal(error))
  }
  byId("more").hidden = !next
  markChosen()
  if (isFirst) revealChosen()
}

/** @param {Problem} problem */
function refusal(problem) {
  const row = element("li", "refused")
  const isUnknown = problem.status === 401
  row.append(element("p", "", isUnknown ? "This server asks for a token." : "This token may not list these streams."))
  row.append(element("p", "note", visible(problem.message)))
  const button = element("button", "", isUnknown ? "Enter a token" : "Another token")
  button.setAttribute("type", "button")
  button.addEventListener("click", askForToken)
  row.append(button)
  return row
}

/** @param {Listed} stream */
function drawListed({ path, contentType, nextOffset, createdAt, closed }) {
  const row = element("li")
  const link = /** @type {HTMLAnchorElement} */ (element("a"))
  link.setAttribute("href", `#${encodePath(path)}`)
  link.append(element("bdi", "path", visible(path)))
  link.append(element("span", "meta", [kindOf(contentType), closed && "closed"].filter(Boolean).join(", ")))
  link.append(element("span", "meta size", size(positionIn(nextOffset) || 0)))
  link.title = `${contentType}, created ${age(createdAt)}${age(createdAt) === "now" ? "" : " ago"}`
  row.append(link)
  return row
}

function revealChosen() {
  byId("list").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" })
}

function markChosen() {
  for (const link of byId("list").querySelectorAll("a")) {
    if (link.hash === location.hash) link.setAttribute("aria-current", "page")
    else link.removeAttribute("aria-current")
  }
}

/** @param {number} step */
function walk(step) {
  const links = [...byId("list").querySelectorAll("a")]
  const focused = /** @type {any} */ (document.activeElement)
  const at = links.indexOf(focused) >= 0 ? links.indexOf(focused) : step > 0 ? -1 : links.length
  links[Math.max(0, Math.min(links.length - 1, at + step))]?.focus()
}

// --- dialogs ---------------------------------------------------------------------------------------------------------

/** @param {string} [path] */
function create(path = asPath(byId("prefix").value)) {
  ask("create", {
    fill: (form) => {
      form.elements.path.value = path
      form.elements.path.focus()
    },
    submit: async ({ path, type, text, ttl, until }) => {
      const headers = { "Content-Type": type.value.trim() }
      if (ttl.value) Object.assign(headers, { "Stream-TTL": ttl.value })
      if (until.value) Object.assign(headers, { "Stream-Expires-At": new Date(until.value).toISOString() })
      const { status } = await request("PUT", asPath(path.value), { headers, body: text.value || undefined })
      if (status === 200) throw new Problem(409, "", "There is such a stream already.")
      list()
      show(asPath(path.value))
    },
  })
}

function askForToken() {
  ask("token", {
    fill: (form, dialog) => {
      const claims = dialog.querySelector(".claims")
      form.elements.token.value = token.get()
      const show = () => claims.replaceChildren(...readClaims(form.elements.token.value.trim()))
      form.elements.token.oninput = show
      show()
      dialog.querySelector(".forget").onclick = () => {
        form.elements.token.value = ""
        form.requestSubmit()
      }
      form.elements.token.focus()
    },
    submit: async (fields) => {
      token.set(fields.token.value.trim())
      showToken()
      list()
      go()
    },
  })
}

/**
 * What a signed token says of itself. Whether it is true, the server decides.
 *
 * @param {string} value
 */
function readClaims(value) {
  const [, payload] = value.split(".")
  try {
    const claims = JSON.parse(atob(payload.replace(/-/g, "+").replace(/_/g, "/")))
    const until = typeof claims.exp === "number" ? new Date(claims.exp * 1000).toLocaleString() : undefined
    const all = { For: claims.sub, Scope: claims.scope, Until: until }
    const given = Object.entries(all).filter(([, text]) => typeof text === "string" && text)
    return given.flatMap(([name, text]) => [element("dt", "", name), element("dd", "", visible(text))])
  } catch {
    return []
  }
}

function showToken() {
  byId("to-token").dataset.set = String(token.get() !== "")
}

// --- health ----------------------------------------------------------------------------------------------------------

async function checkHealth() {
  let [state, text] = ["good", "ready"]
  try {
    await request("GET", "/-/ready")
  } catch (error) {
    if (!(error instanceof Problem)) throw error
    state = error.status ? "poor" : "bad"
    text = error.status ? visible(error.message) : "unreachable"
  }
  const health = byId("health")
  if (health.textContent !== text) health.textContent = text
  health.dataset.state = state
}

// --- the keyboard ----------------------------------------------------------------------------------------------------

/** @type {Record<string, (event: KeyboardEvent) => void>} */
const KEYS = {
  "/": () => byId("prefix").select(),
  "?": () => ask("keys", {}),
  n: () => create(),
  r: () => list(),
  f: () => shown instanceof StreamView && shown.toggle(),
  e: () => document.querySelector(".earlier")?.dispatchEvent(new MouseEvent("click")),
  v: () => shown instanceof StreamView && shown.nextView(),
  a: () => shown instanceof StreamView && shown.write(),
  j: () => walk(1),
  k: () => walk(-1),
  ArrowDown: () => walk(1),
  ArrowUp: () => walk(-1),
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  const target = /** @type {HTMLElement} */ (event.target)
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return
  const isField = target.matches("input, textarea, select")
  if (event.key === "Escape") {
    if (isField) target.blur()
    else location.hash = ""
    return
  }
  const isSearch = target.id === "prefix"
  if (isField && !(isSearch && event.key.startsWith("Arrow"))) return
  if (target.matches(".content") && event.key.startsWith("Arrow")) return
  const action = KEYS[event.key]
  if (!action) return
  event.preventDefault()
  action(event)
}

// --- the beginning ---------------------------------------------------------------------------------------------------

let searching = 0
byId("prefix").addEventListener("input", () => {
  clearTimeout(searching)
  searching = setTimeout(list, SEARCH_MS)
})
byId("search").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault()
  list()
})
byId("more").addEventListener("click", () => list({ more: true }))
byId("refresh").addEventListener("click", () => list())
byId("to-create").addEventListener("click", () => create())
byId("to-token").addEventListener("click", askForToken)
byId("to-keys").addEventListener("click", () => ask("keys", {}))
addEventListener("problem", (event) => {
  const { detail } = /** @type {CustomEvent} */ (event)
  toast(explain(detail), true)
  if (detail.status === 401 && !document.querySelector("dialog[open]")) askForToken()
})
addEventListener("wanted", (event) => {
  const { detail } = /** @type {CustomEvent} */ (event)
  if (detail === "token") askForToken()
  else create(shown instanceof StreamView ? shown.path : undefined)
})
addEventListener("hashchange", go)
addEventListener("keydown", onKey)
showToken()
list()
go()
checkHealth()
setInterval(() => {
  if (document.visibilityState !== "visible") return
  checkHealth()
  if (isRenewed && !byId("list").contains(document.activeElement)) list()
}, AGAIN_MS)
