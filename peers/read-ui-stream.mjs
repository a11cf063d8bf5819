// Resumes an answer with a version of the AI SDK, and prints the message that comes of it; null if there is none.
//
//     node read-ui-stream.mjs ai-v5 http://127.0.0.1:8000/api/chat c1
const [name, api, chatId] = process.argv.slice(2)
const { DefaultChatTransport, readUIMessageStream } = await import(name)

const stream = await new DefaultChatTransport({ api }).reconnectToStream({ chatId })
let message = null
let failure
if (stream !== null) {
  const onError = (error) => (failure = error.message)
  for await (const next of readUIMessageStream({ stream, onError })) message = next
}
console.log(JSON.stringify({ message, failure }))
