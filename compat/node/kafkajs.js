'use strict'

/**
 * kafkajs through every step of compat/README.md.
 *
 * Two members of a group are two consumers in one process. kafkajs has no callback for lost partitions, so a member
 * commits each small run of records before it counts them: what another member then gets again was never counted.
 */

const util = require('util')
const zstd = require('@bokuweb/zstd-wasm')
const lz4 = require('lz4-napi')
const SnappyCodec = require('kafkajs-snappy')
const { Kafka, CompressionTypes, CompressionCodecs, ConfigResourceTypes, Partitioners, logLevel } = require('kafkajs')
const {
  PARTITIONS,
  POOL,
  message,
  check,
  endOffset,
  offsetAtOrAfter,
  checkGenerator,
} = require('./records')

const SEGMENT_BYTES = String(4 << 20)
const RETENTION_MS = String(3 * 24 * 3600 * 1000)
const CODECS = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
}

// kafkajs brings gzip only; the others are plugged in.
CompressionCodecs[CompressionTypes.Snappy] = SnappyCodec
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: encoder => lz4.compressFrame(encoder.buffer),
  decompress: buffer => lz4.decompressFrame(buffer),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async encoder => Buffer.from(zstd.compress(encoder.buffer, 3)),
  decompress: async buffer => Buffer.from(zstd.decompress(buffer)),
})

const { values: options } = util.parseArgs({
  options: {
    bootstrap: { type: 'string' },
    records: { type: 'string', default: '5000' },
    'base-ms': { type: 'string' },
    run: { type: 'string' },
  },
})
const records = Number(options.records)
const baseMs = Number(options['base-ms'])
const topic = `compat-kafkajs-${options.run}`
const idempotentTopic = `${topic}-idempotent`
const groupId = `${topic}-group`
const idempotentRecords = Math.max(1000, Math.floor(records / 20))

// At the default level kafkajs reports each rebalance and each retried lookup of a new topic as an error.
const kafka = new Kafka({ clientId: 'compat', brokers: options.bootstrap.split(','), logLevel: logLevel.NOTHING })
const admin = kafka.admin()

async function main() {
  checkGenerator()
  await zstd.init()
  await admin.connect()
  await step('create', create)
  for (const codec of Object.keys(CODECS)) await step(`produce:${codec}`, () => produce(codec))
  await step('offsets', offsets)
  await step('group', group)
  await step('idempotent', idempotent)
  await step('configs', configs)
  await step('delete', remove)
  await admin.disconnect()
}

/** Runs a step; `run` returns { records, bytes, note }. A failure is reported and ends the program. */
async function step(name, run) {
  const start = process.hrtime.bigint()
  const line = (verdict, count, bytes, note) => {
    const seconds = Number(process.hrtime.bigint() - start) / 1e9
    console.log(['STEP', name, verdict, count, bytes, seconds.toFixed(2), note].join('\t'))
  }
  try {
    const { records = 0, bytes = 0, note = '' } = (await run()) ?? {}
    line('ok', records, bytes, note)
  } catch (error) {
    console.error(error)
    line('FAIL', 0, 0, String(error).replace(/\s+/g, ' '))
    process.exit(1)
  }
}

function must(condition, text) {
  if (!condition) throw new Error(text)
}

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

/** Polls a fact that a broker spreads in its own time (metadata, deletion). */
async function waitFor(what, condition, seconds = 60) {
  const deadline = Date.now() + 1000 * seconds
  while (!(await condition())) {
    must(Date.now() < deadline, `${what}: not within ${seconds} s`)
    await sleep(20)
  }
}

const newTopic = name => ({
  topic: name,
  numPartitions: PARTITIONS,
  replicationFactor: -1,
  configEntries: [{ name: 'segment.bytes', value: SEGMENT_BYTES }],
})

async function create() {
  must(await admin.createTopics({ topics: [newTopic(topic)] }), 'the topic was already there')
  must(!(await admin.createTopics({ topics: [newTopic(topic)] })), 'a topic could be created twice')
  await waitFor('6 partitions in the metadata', async () => {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
    return topics[0].partitions.length === PARTITIONS
  })
}

/** kafkajs makes one batch per partition of each send, so a send stays below the largest batch that a broker takes. */
const SEND_BYTES_MAX = 950_000

async function produce(codec) {
  const names = Object.keys(CODECS)
  const at = names.indexOf(codec)
  const from = Math.floor((records * at) / names.length)
  const to = Math.floor((records * (at + 1)) / names.length)
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner })
  await producer.connect()
  let bytes = 0
  let pending = []
  let pendingBytes = 0
  let pendingFrom = from

  const flush = async () => {
    const answers = await producer.send({ topic, acks: -1, compression: CODECS[codec], messages: pending })
    for (const { partition, errorCode, baseOffset } of answers) {
      const first = offsetAtOrAfter(partition, pendingFrom, to)
      must(
        errorCode === 0 && baseOffset === String(first),
        `records from ${pendingFrom}: partition ${partition} answered ${errorCode}, ${baseOffset}, not offset ${first}`,
      )
    }
    pendingFrom += pending.length
    pending = []
    pendingBytes = 0
  }

  for (let i = from; i < to; i++) {
    const next = message(i, baseMs)
    const size = next.value?.length ?? 0
    if (pending.length > 0 && pendingBytes + size > SEND_BYTES_MAX) await flush()
    pending.push(next)
    pendingBytes += size + 100
    bytes += size
  }
  await flush()
  await producer.disconnect()
  return { records: to - from, bytes }
}

async function offsets() {
  for (const { partition, low, high } of await admin.fetchTopicOffsets(topic)) {
    const end = endOffset(partition, records)
    must(low === '0' && high === String(end), `partition ${partition} has offsets ${low} to ${high}, not 0 to ${end}`)
  }
  const third = Math.floor(records / 3)
  for (const i of [0, 1, third, Math.floor(records / 2) + 1, records - 1, records, records + 5000]) {
    const timestamp = baseMs + 10 * i - 5
    for (const { partition, offset } of await admin.fetchTopicOffsetsByTimestamp(topic, timestamp)) {
      // Where there is no such record kafkajs asks for the end.
      const want = offsetAtOrAfter(partition, i, records) ?? endOffset(partition, records)
      must(offset === String(want), `offset of ${timestamp} in ${partition} is ${offset}, not ${want}`)
    }
  }
}

/** What the members of the group have read together, and whose turn it is. */
class Tally {
  seen = new Uint8Array(records)
  distinct = 0
  twice = 0
  bytes = 0
  taken = { A: 0, B: 0, C: 0 }
  first = new Map()
  bJoined = false

  take(member, partition, i, got) {
    if (this.seen[i]) this.twice++
    else this.distinct++
    this.seen[i] = 1
    this.bytes += got.value?.length ?? 0
    this.taken[member]++
  }

  reached(part) {
    return this.distinct >= Math.floor(records * part)
  }

  // The play: A reads a quarter and waits for B. Both read until half is read and B had a share in it. A leaves, B waits
  // until it has every partition and reads to three quarters. Without the waiting a fast reader would be through before
  // the group changes. C goes on.

  halfIsShared() {
    return this.reached(1 / 2) && this.taken.B > 0
  }

  mayRead(member, assigned) {
    if (member === 'A') return this.bJoined || !this.reached(1 / 4)
    if (member === 'B') return !this.halfIsShared() || assigned === PARTITIONS
    return true
  }

  done(member, assigned) {
    if (member === 'A') return this.halfIsShared()
    if (member === 'B') return this.reached(3 / 4) && assigned === PARTITIONS
    return this.reached(1)
  }
}

/** Records that are committed and counted together. */
const RUN_MAX = 100

/** One consumer of the group, until its part is done. */
async function member(tally, name) {
  const consumer = kafka.consumer({ groupId, heartbeatInterval: 500, maxWaitTimeInMs: 500 })
  let assigned = 0
  let failure = null
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    const partitions = payload.memberAssignment[topic] ?? []
    console.error(`${name} is assigned ${partitions}`)
    assigned = partitions.length
    if (name === 'B' && assigned > 0) tally.bJoined = true
  })
  consumer.on(consumer.events.REBALANCING, () => console.error(`${name} is rebalancing`))
  consumer.on(consumer.events.CRASH, ({ payload }) => {
    if (!payload.restart) failure = payload.error
  })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, resolveOffset, heartbeat, isRunning, isStale }) => {
      const { partition, messages } = batch
      for (let at = 0; at < messages.length; at += RUN_MAX) {
        // The heartbeat throws when the group rebalances; kafkajs then joins again.
        while (!tally.mayRead(name, assigned) && !tally.done(name, assigned) && isRunning()) {
          await heartbeat()
          await sleep(20)
        }
        if (tally.done(name, assigned) || !isRunning() || isStale()) return
        const run = messages.slice(at, at + RUN_MAX)
        let numbers
        try {
          numbers = run.map(got => check(partition, got, baseMs))
        } catch (error) {
          failure = error
          return
        }
        const next = String(Number(run[run.length - 1].offset) + 1)
        await consumer.commitOffsets([{ topic, partition, offset: next, metadata: name }])
        numbers.forEach((i, n) => tally.take(name, partition, i, run[n]))
        if (name === 'C' && !tally.first.has(partition)) tally.first.set(partition, Number(run[0].offset))
        resolveOffset(run[run.length - 1].offset)
        await heartbeat()
      }
    },
  })
  await waitFor(`member ${name}`, () => failure || tally.done(name, assigned), 300)
  await consumer.disconnect()
  if (failure) throw failure
}

async function group() {
  const tally = new Tally()
  let failed = false
  const a = member(tally, 'A').catch(error => {
    failed = true
    throw error
  })
  await Promise.race([a, waitFor('a quarter', () => failed || tally.reached(1 / 4), 300)])
  await Promise.all([a, member(tally, 'B')])

  const [{ partitions }] = await admin.fetchOffsets({ groupId, topics: [topic] })
  const committed = new Map(partitions.map(({ partition, offset }) => [partition, Math.max(0, Number(offset))]))
  for (const [partition, offset] of committed) {
    let read = 0
    for (let i = partition; i < records; i += PARTITIONS) read += tally.seen[i]
    must(offset === read, `partition ${partition}: ${read} records read, ${offset} committed`)
  }

  await member(tally, 'C')
  for (const [partition, offset] of tally.first) {
    const want = committed.get(partition)
    must(offset === want, `C started at ${partition}/${offset}, committed was ${want}`)
  }
  must(tally.twice === 0, `${tally.twice} records came twice`)
  const { A, B, C } = tally.taken
  return { records, bytes: tally.bytes, note: `A=${A} B=${B} C=${C} twice=${tally.twice}` }
}

async function idempotent() {
  await admin.createTopics({ topics: [newTopic(idempotentTopic)] })
  const producer = kafka.producer({
    idempotent: true,
    maxInFlightRequests: 1,
    createPartitioner: Partitioners.DefaultPartitioner,
  })
  await producer.connect()
  for (let from = 0; from < idempotentRecords; from += 100) {
    const messages = []
    for (let i = from; i < Math.min(from + 100, idempotentRecords); i++) {
      messages.push({ key: `key-${i % 100}`, value: String(i) })
    }
    await producer.send({ topic: idempotentTopic, messages })
  }
  await producer.disconnect()

  const seen = new Set()
  const last = new Map()
  let failure = null
  const consumer = kafka.consumer({ groupId: `${groupId}-idempotent`, maxWaitTimeInMs: 500 })
  await consumer.connect()
  await consumer.subscribe({ topics: [idempotentTopic], fromBeginning: true })
  await consumer.run({
    eachMessage: async ({ partition, message: { value } }) => {
      const i = Number(value)
      if (seen.has(i)) failure ??= new Error(`${i} came twice`)
      if (i < (last.get(partition) ?? -1)) failure ??= new Error(`${i} came after ${last.get(partition)}`)
      seen.add(i)
      last.set(partition, i)
    },
  })
  await waitFor('every record', () => failure || seen.size === idempotentRecords)
  await consumer.disconnect()
  if (failure) throw failure
  const ends = await admin.fetchTopicOffsets(idempotentTopic)
  const inLog = ends.reduce((sum, { high }) => sum + Number(high), 0)
  must(inLog === idempotentRecords, `the log holds ${inLog} records, ${idempotentRecords} were produced`)
  return { records: idempotentRecords, note: `partitions used=${last.size}` }
}

/** kafkajs knows AlterConfigs only: what is not named goes back to its default. */
async function configs() {
  const resource = { type: ConfigResourceTypes.TOPIC, name: topic }
  const described = async () => {
    const { resources } = await admin.describeConfigs({ includeSynonyms: true, resources: [resource] })
    return new Map(resources[0].configEntries.map(entry => [entry.configName, entry]))
  }
  const alter = settings =>
    admin.alterConfigs({
      validateOnly: false,
      resources: [{ ...resource, configEntries: Object.entries(settings).map(([name, value]) => ({ name, value })) }],
    })
  const TOPICS_OWN = 1
  // Apache Kafka acknowledges a changed setting before its broker has taken notice of it.
  const mustBecome = async (name, value, own) => {
    let entry
    const asWanted = async () => {
      entry = (await described()).get(name)
      return entry?.configValue === value && (entry.configSource === TOPICS_OWN) === own
    }
    await waitFor(name, asWanted, 10).catch(() => must(false, `${name}: ${JSON.stringify(entry)}`))
  }

  const kept = { 'segment.bytes': SEGMENT_BYTES }
  const before = await described()
  must(before.size > 20, `only ${before.size} settings are described`)
  await mustBecome('segment.bytes', SEGMENT_BYTES, true)
  const retention = before.get('retention.ms').configValue
  await mustBecome('retention.ms', retention, false)

  await alter({ ...kept, 'retention.ms': RETENTION_MS })
  await mustBecome('retention.ms', RETENTION_MS, true)
  await mustRefuse('INVALID_CONFIG', () => alter({ ...kept, 'retention.ms': 'soon' }))

  await alter({ ...kept, 'max.message.bytes': '2000' })
  await mustBecome('max.message.bytes', '2000', true)
  await mustBecome('retention.ms', retention, false)
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner, retry: { retries: 0 } })
  await producer.connect()
  const tooLarge = { topic, messages: [{ partition: 0, value: POOL.subarray(0, 3000) }] }
  await mustRefuse('MESSAGE_TOO_LARGE', () => producer.send(tooLarge))
  await producer.disconnect()
  await alter(kept)
  return { note: `${before.size} settings` }
}

/** Requires that a call is refused with the broker's error of that name. */
async function mustRefuse(type, call) {
  let refusal = null
  try {
    await call()
  } catch (error) {
    refusal = error.type ?? error.cause?.type ?? error.message
  }
  must(refusal === type, `${type} was expected, not ${refusal}`)
}

async function remove() {
  await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '10' }] })
  const [{ low }] = (await admin.fetchTopicOffsets(topic)).filter(({ partition }) => partition === 0)
  must(low === '10', `the log starts at ${low} after deleting what is before 10`)

  await admin.deleteGroups([groupId])
  const { groups } = await admin.listGroups()
  must(!groups.some(group => group.groupId === groupId), 'the group is still listed')

  await admin.deleteTopics({ topics: [topic, idempotentTopic] })
  await waitFor('the topics to be gone', async () => {
    const left = await admin.listTopics()
    return !left.includes(topic) && !left.includes(idempotentTopic)
  })
}

main().catch(error => {
  console.error(error)
  process.exit(1)
})
