// The protocol's own TypeScript client, for tests of our server.
//
//   node client.mjs basics URL          everything once, on streams below the URL; prints what came of it as JSON
//   node client.mjs follow URL LIVE     each message as a line of JSON, to the end of the stream; LIVE: sse, long-poll
//   node client.mjs produce URL COUNT   {"n":0} ... by its idempotent producer, and closes the stream
import { setTimeout as pause } from 'node:timers/promises'
import { DurableStream, IdempotentProducer, stream } from '@durable-streams/client'

const [command, url, option] = process.argv.slice(2)
const quiet = { warnOnHttp: false }

async function basics() {
  const json = await DurableStream.create({ url: `${url}/json`, contentType: 'application/json', ttlSeconds: 3600, ...quiet })
  await json.append(JSON.stringify({ n: 1 }))
  await json.append(JSON.stringify([2, 3]), { seq: 'a' })
  const conflict = await json.append('4', { seq: 'a' }).catch((error) => error.status)
  const again = await DurableStream.create({ url: `${url}/json`, contentType: 'text/plain', ...quiet }).catch((error) => error.status)
  const text = await DurableStream.create({ url: `${url}/text`, contentType: 'text/plain', ...quiet })
  await text.append('one €\n')
  await text.appendStream(new Response('two\r\n').body)
  const bytes = await DurableStream.create({ url: `${url}/bytes`, contentType: 'image/png', body: new Uint8Array([0, 255]), ...quiet })
  await bytes.close({ body: new Uint8Array([1]) })
  const closed = await bytes.append(new Uint8Array([2])).catch((error) => [error.name, error.status])
  const found = {
    json: await (await json.stream({ live: false })).json(),
    text: await (await text.stream({ live: false })).text(),
    bytes: [...(await (await bytes.stream({ live: false })).body())],
    head: await json.head(),
  }
  await text.delete()
  const gone = await DurableStream.head({ url: `${url}/text`, ...quiet }).catch((error) => error.status)
  return { ...found, conflict, again, closed, gone }
}

// The client gives up when a live connection breaks; its users begin anew where they were.
async function follow() {
  let offset = '-1'
  for (let over = false; !over; ) {
    try {
      const response = await stream({ url, offset, live: option, json: true, ...quiet })
      response.subscribeJson((batch) => {
        for (const item of batch.items) console.log(JSON.stringify(item))
        offset = batch.offset
      })
      await response.closed
      over = response.streamClosed
    } catch (error) {
      console.error(String(error))
      await pause(50)
    }
  }
}

// It gives up a batch that got no answer, too, unless the fetch that it is given tries again.
async function patient(...request) {
  for (;;) {
    const response = await fetch(...request).catch(() => undefined)
    if (response && response.status < 500) return response
    await pause(50)
  }
}

async function produce() {
  const handle = await DurableStream.connect({ url, contentType: 'application/json', fetch: patient, ...quiet })
  const errors = []
  const options = { maxBatchBytes: 100, lingerMs: 1, maxInFlight: 5, fetch: patient, onError: (error) => errors.push(String(error)) }
  const producer = new IdempotentProducer(handle, 'stock', options)
  for (let n = 0; n < Number(option); n++) {
    producer.append(JSON.stringify({ n }))
    if (n % 10 === 9) await pause(5)
  }
  await producer.flush()
  await producer.close()
  return errors
}

const result = await { basics, follow, produce }[command]()
if (result !== undefined) console.log(JSON.stringify(result))
