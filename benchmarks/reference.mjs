// The protocol's Node.js reference server on a free port: in memory, or with its file store in the given directory.
import { DurableStreamTestServer } from '@durable-streams/server'

const server = new DurableStreamTestServer({ host: '127.0.0.1', port: 0, dataDir: process.argv[2] })
process.on('SIGTERM', () => server.stop().finally(() => process.exit(0)))
console.log(`listening on ${await server.start()}`)
