async () => {
  Object.assign(window, await import("/-/unbroken.js"))
  document.title = "Lab"
  const list = document.createElement("ol")
  document.body.replaceChildren(list)
  const plain = (message) => (message instanceof Uint8Array ? Array.from(message) : message)

  // Follow a stream, keep what is told of it, and show it.
  window.start = (path, options = {}) => {
    window.told = { messages: [], positions: [], statuses: [], errors: [], controls: [] }
    window.reading = follow(path, {
      onMessage: (message, position) => {
        told.messages.push(plain(message))
        told.positions.push(position)
        const item = document.createElement("li")
        item.textContent = typeof message === "string" ? message : JSON.stringify(plain(message))
        list.append(item)
      },
      onControl: (control) => told.controls.push(control),
      onStatus: (status) => told.statuses.push(status),
      onError: ({ name, message, status, code }) => told.errors.push({ name, message, status, code }),
      ...options,
    })
  }
}
