// The protocol's Node.js reference server: in memory, or with its file store.
//
//   node reference.mjs [--data DIR] [--port PORT] [--wait SECONDS]
//
// --port: a free one by default; --wait: how long it lets a live read wait.
import { parseArgs } from 'node:util'
import { DurableStreamTestServer } from '@durable-streams/server'

const string = { type: 'string' }
const { values } = parseArgs({ options: { data: string, port: string, wait: string } })
const server = new DurableStreamTestServer({
  host: '127.0.0.1',
  port: Number(values.port ?? 0),
  dataDir: values.data,
  longPollTimeout: 1000 * Number(values.wait ?? 30),
})
process.on('SIGTERM', () => server.stop().finally(() => process.exit(0)))
console.log(`listening on ${await server.start()}`)
