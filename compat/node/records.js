'use strict'

/**
 * The records that every client writes and checks (compat/README.md, "The records"). Record `i` is a pure function of
 * `i`; nothing here talks to a broker.
 */

const crypto = require('crypto')

const PARTITIONS = 6
const CHECKSUM = 'b305a75994f132ff9d617daf0c5694daf52fa1d3662c5c7737b6b2a1815e6646'

function mix(x) {
  x ^= x >>> 16
  x = Math.imul(x, 0x85ebca6b)
  x ^= x >>> 13
  x = Math.imul(x, 0xc2b2ae35)
  return (x ^ (x >>> 16)) >>> 0
}

function makePool() {
  const pool = Buffer.alloc(1 << 21)
  let x = 0x9e3779b9
  for (let w = 0; w < pool.length / 4; w++) {
    if (Math.floor(w / 16) % 2 === 1) {
      pool.copy(pool, 4 * w, 4 * (w % 16), 4 * (w % 16) + 4)
    } else {
      x ^= x << 13
      x ^= x >>> 17
      x ^= x << 5
      pool.writeInt32LE(x, 4 * w)
    }
  }
  return pool
}

const POOL = makePool()

function value(i) {
  const h = mix(i + 0x5eed)
  const g = mix(h + 1)
  const kind = h % 1000
  let size
  if (i % 2500 === 0) size = 921600
  else if (kind < 50) return i % 2 === 0 && i % 13 !== 0 ? null : Buffer.alloc(0)
  else if (kind < 650) size = 1 + (g % 200)
  else if (kind < 950) size = 200 + (g % 1800)
  else if (kind < 994) size = 2000 + (g % 18000)
  else if (kind < 999) size = 20000 + (g % 80000)
  else size = 100000 + (g % 821601)
  const start = mix(h + 2) % (1 << 20)
  const bytes = Buffer.from(POOL.subarray(start, start + size))
  if (size >= 4) bytes.writeUInt32LE(i)
  return bytes
}

function key(i) {
  if (i % 13 === 0) return null
  return i % 13 === 1 ? Buffer.alloc(0) : Buffer.from(`key-${i % 1000}`)
}

/** In kafkajs' shape, an array for a repeated key. It cannot send the header whose value is null. */
function headers(i) {
  const number = { i: Buffer.from(String(i)) }
  if (i % 5 === 0) return { ...number, dup: [Buffer.alloc(0), Buffer.from('second')] }
  if (i % 5 === 1) return { ...number, bytes: Buffer.from([0x00, 0xff, 0x80]) }
  return number
}

/** Record `i` as a kafkajs message. */
function message(i, baseMs) {
  return {
    partition: i % PARTITIONS,
    timestamp: String(baseMs + 10 * i),
    key: key(i),
    value: value(i),
    headers: headers(i),
  }
}

const same = (a, b) => (a === null || b === null ? a === b : a.equals(b))

function sameHeaders(want, got) {
  const names = Object.keys(want)
  return (
    names.join() === Object.keys(got).join() &&
    names.every(name => {
      const [a, b] = [want[name], got[name]].map(values => [].concat(values))
      return a.length === b.length && a.every((value, n) => same(value, b[n]))
    })
  )
}

/** Says which record `got` is, by its header, and throws if it is not exactly what the generator makes. */
function check(partition, got, baseMs) {
  const at = `${partition}/${got.offset}`
  if (!Buffer.isBuffer(got.headers?.i)) throw new Error(`the record at ${at} has headers ${JSON.stringify(got.headers)}`)
  const i = Number(got.headers.i)
  const fields = {
    partition: partition === i % PARTITIONS,
    offset: got.offset === String(Math.floor(i / PARTITIONS)),
    timestamp: got.timestamp === String(baseMs + 10 * i),
    key: same(key(i), got.key),
    value: same(value(i), got.value),
    headers: sameHeaders(headers(i), got.headers),
  }
  for (const [name, equal] of Object.entries(fields)) {
    if (!equal) throw new Error(`record ${i} at ${at}: its ${name} differs`)
  }
  return i
}

/** How many of the first `n` records belong to a partition. */
const endOffset = (partition, n) => Math.floor((n - partition + PARTITIONS - 1) / PARTITIONS)

/** The offset in a partition of its first record that is not below `i`; null if there is none below `n`. */
function offsetAtOrAfter(partition, i, n) {
  const first = i + ((((partition - i) % PARTITIONS) + PARTITIONS) % PARTITIONS)
  return first < n ? Math.floor(first / PARTITIONS) : null
}

function checkGenerator() {
  const hash = crypto.createHash('sha256')
  for (let i = 0; i < 1000; i++) hash.update(value(i) ?? Buffer.alloc(0))
  const sum = hash.digest('hex')
  if (sum !== CHECKSUM) throw new Error(`the generator differs from compat/README.md: ${sum}`)
}

module.exports = { PARTITIONS, POOL, message, check, endOffset, offsetAtOrAfter, checkGenerator }
