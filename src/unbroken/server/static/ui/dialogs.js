// @ts-check
/** Questions to the user, and what there is to tell. */

import { Problem } from "./api.js"
import { element, visible } from "./format.js"

const TOAST_MS = 6_000

/** @typedef {Record<string, any>} Fields */

/**
 * Ask by a dialog of the page until it is answered so that `submit` succeeds, or put aside.
 *
 * @param {string} id
 * @param {{ fill?: (form: any, dialog: any) => void, submit?: (fields: Fields) => Promise<unknown> }} how
 */
export function ask(id, { fill, submit }) {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById(id))
  const form = /** @type {HTMLFormElement} */ (dialog.querySelector("form"))
  const problem = /** @type {HTMLElement | null} */ (dialog.querySelector(".problem"))
  const over = new AbortController()
  const { signal } = over
  const end = () => {
    over.abort()
    if (dialog.open) dialog.close()
    // Where nothing had the focus before, a browser leaves it here until it draws next, and keys would be typed here.
    const focused = document.activeElement
    if (focused instanceof HTMLElement && dialog.contains(focused)) focused.blur()
  }
  form.reset()
  if (problem) problem.hidden = true
  dialog.addEventListener("close", end, { signal })
  dialog.querySelector(".cancel")?.addEventListener("click", end, { signal })
  form.addEventListener(
    "submit",
    async (event) => {
      event.preventDefault()
      const buttons = form.querySelectorAll("button:not(.cancel)")
      for (const button of buttons) button.setAttribute("disabled", "")
      try {
        await submit?.(/** @type {any} */ (form.elements))
        end()
      } catch (error) {
        if (problem) {
          problem.textContent = error instanceof Problem ? explain(error) : String(error)
          problem.hidden = false
        }
        if (!(error instanceof Problem)) throw error
      } finally {
        for (const button of buttons) button.removeAttribute("disabled")
      }
    },
    { signal },
  )
  dialog.showModal()
  fill?.(form, dialog)
}

/**
 * @param {{ title: string, note: string, verb: string, isDangerous?: boolean }} what
 * @param {string} subject
 * @param {() => Promise<unknown>} action
 */
export function confirm({ title, note, verb, isDangerous = false }, subject, action) {
  ask("confirm", {
    fill: (_, dialog) => {
      dialog.querySelector("h2").textContent = title
      dialog.querySelector(".note").textContent = note
      dialog.querySelector(".subject bdi").textContent = visible(subject)
      const button = dialog.querySelector(".confirm")
      button.textContent = verb
      button.className = isDangerous ? "confirm danger" : "confirm primary"
      dialog.querySelector(".cancel").focus()
    },
    submit: action,
  })
}

/**
 * @param {string} text
 * @param {boolean} [isProblem]
 */
export function toast(text, isProblem = false) {
  const shown = element("p", isProblem ? "toast bad" : "toast", visible(text))
  const all = document.getElementById("toasts")
  all?.append(shown)
  while ((all?.childElementCount ?? 0) > 3) all?.firstElementChild?.remove()
  setTimeout(() => shown.remove(), TOAST_MS)
}

/**
 * What a refusal means to somebody who looks at a page.
 *
 * @param {Problem} problem
 */
export function explain({ status, message }) {
  const sentence = message.charAt(0).toUpperCase() + message.slice(1) + (/[.!?]$/.test(message) ? "" : ".")
  if (status === 401) return `The server asks for a token that it knows. ${sentence}`
  return status === 403 ? `Not allowed. ${sentence}` : sentence
}
