// The public conformance suite of the protocol, against the server at UNBROKEN_URL. Its long-polls must end within
// half a second. Started by tests/conformance/test_public_suite.py.
import { runConformanceTests } from '@durable-streams/server-conformance-tests'

runConformanceTests({ baseUrl: process.env.UNBROKEN_URL, longPollTimeoutMs: 500, subscriptions: false })
