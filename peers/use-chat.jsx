// A chat with the stock useChat of the AI SDK, as its documentation has it.
import { useChat } from "@ai-sdk/react"
import { DefaultChatTransport } from "ai"
import { useState } from "react"
import { createRoot } from "react-dom/client"

const id = location.hash.slice(1)
const history = await (await fetch(`/api/chat/${id}`)).json()
const transport = new DefaultChatTransport({ api: "/api/chat" })

function Chat() {
  const { messages, sendMessage, regenerate, status, error } = useChat({ id, messages: history, resume: true, transport })
  const [text, setText] = useState("")
  const send = (event) => {
    event.preventDefault()
    sendMessage({ text })
    setText("")
  }
  return (
    <main>
      {messages.map((message) => (
        <p key={message.id} className={message.role}>
          {message.parts.map((part) => part.text ?? `(${part.type})`).join("")}
        </p>
      ))}
      <p id="status">{status}</p>
      <p id="error">{error?.message}</p>
      <form onSubmit={send}>
        <input aria-label="Message" value={text} onChange={(event) => setText(event.target.value)} />
        <button>Send</button>
      </form>
      <button onClick={() => fetch(`/api/chat/${id}/stop`, { method: "POST" })}>Stop</button>
      <button onClick={() => regenerate()}>Again</button>
    </main>
  )
}

createRoot(document.getElementById("root")).render(<Chat />)
