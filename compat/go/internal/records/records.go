// Package records generates the records that every client writes and checks (compat/README.md, "The records").
// Record i is a pure function of i; nothing here talks to a broker.
package records

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
)

// Partitions is the number of partitions of a suite's topic.
const Partitions = 6

const checksum = "b305a75994f132ff9d617daf0c5694daf52fa1d3662c5c7737b6b2a1815e6646"

// Header is one header; a nil Value is null on the wire.
type Header struct {
	Key   string
	Value []byte
}

// Record is one generated record; nil Key and Value are null on the wire.
type Record struct {
	Partition int32
	Offset    int64
	Timestamp int64
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Pool is the 2 MiB that values are slices of.
var Pool = makePool()

func mix(x uint32) uint32 {
	x ^= x >> 16
	x *= 0x85ebca6b
	x ^= x >> 13
	x *= 0xc2b2ae35
	return x ^ x>>16
}

func makePool() []byte {
	pool := make([]byte, 0, 1<<21)
	x := uint32(0x9e3779b9)
	for w := 0; len(pool) < cap(pool); w++ {
		if w/16%2 == 1 {
			at := w % 16 * 4
			pool = append(pool, pool[at:at+4]...)
		} else {
			x ^= x << 13
			x ^= x >> 17
			x ^= x << 5
			pool = binary.LittleEndian.AppendUint32(pool, x)
		}
	}
	return pool
}

func value(i int) []byte {
	h := mix(uint32(i) + 0x5eed)
	g := mix(h + 1)
	kind := h % 1000
	var size uint32
	switch {
	case i%2500 == 0:
		size = 921600
	case kind < 50 && i%2 == 0 && i%13 != 0:
		return nil
	case kind < 50:
		return []byte{}
	case kind < 650:
		size = 1 + g%200
	case kind < 950:
		size = 200 + g%1800
	case kind < 994:
		size = 2000 + g%18000
	case kind < 999:
		size = 20000 + g%80000
	default:
		size = 100000 + g%821601
	}
	start := mix(h+2) % (1 << 20)
	value := bytes.Clone(Pool[start : start+size])
	if size >= 4 {
		binary.LittleEndian.PutUint32(value, uint32(i))
	}
	return value
}

// At generates record i.
func At(i int, baseMs int64) Record {
	r := Record{
		Partition: int32(i % Partitions),
		Offset:    int64(i / Partitions),
		Timestamp: baseMs + 10*int64(i),
		Value:     value(i),
		Headers:   []Header{{"i", []byte(strconv.Itoa(i))}},
	}
	switch i % 13 {
	case 0:
	case 1:
		r.Key = []byte{}
	default:
		r.Key = fmt.Appendf(nil, "key-%d", i%1000)
	}
	switch i % 5 {
	case 0:
		r.Headers = append(r.Headers, Header{"dup", []byte{}}, Header{"dup", []byte("second")}, Header{"nil", nil})
	case 1:
		r.Headers = append(r.Headers, Header{"bytes", []byte{0x00, 0xff, 0x80}})
	}
	return r
}

// Check says which record got is, by its first header, and fails if it is not exactly what the generator makes.
func Check(got Record, baseMs int64) (int, error) {
	at := fmt.Sprintf("%d/%d", got.Partition, got.Offset)
	if len(got.Headers) == 0 || got.Headers[0].Key != "i" {
		return 0, fmt.Errorf("the record at %s has headers %v", at, got.Headers)
	}
	i, err := strconv.Atoi(string(got.Headers[0].Value))
	if err != nil {
		return 0, fmt.Errorf("the record at %s: %w", at, err)
	}
	want := At(i, baseMs)
	differs := ""
	switch {
	case want.Partition != got.Partition:
		differs = "partition"
	case want.Offset != got.Offset:
		differs = "offset"
	case want.Timestamp != got.Timestamp:
		differs = "timestamp"
	case !same(want.Key, got.Key):
		differs = "key"
	case !same(want.Value, got.Value):
		differs = "value"
	case len(want.Headers) != len(got.Headers):
		differs = "number of headers"
	}
	if differs != "" {
		return i, fmt.Errorf("record %d at %s: its %s differs", i, at, differs)
	}
	for n, header := range want.Headers {
		if header.Key != got.Headers[n].Key || !same(header.Value, got.Headers[n].Value) {
			return i, fmt.Errorf("record %d at %s: header %d is %v, not %v", i, at, n, got.Headers[n], header)
		}
	}
	return i, nil
}

// same tells null and empty apart, which bytes.Equal does not.
func same(a, b []byte) bool {
	return (a == nil) == (b == nil) && bytes.Equal(a, b)
}

// EndOffset is how many of the first n records belong to a partition.
func EndOffset(partition int32, n int) int64 {
	return int64((n - int(partition) + Partitions - 1) / Partitions)
}

// OffsetAtOrAfter is the offset in a partition of its first record that is not below i; -1 if there is none below n.
func OffsetAtOrAfter(partition int32, i, n int) int64 {
	first := i + ((int(partition)-i)%Partitions+Partitions)%Partitions
	if first >= n {
		return -1
	}
	return int64(first / Partitions)
}

// CheckGenerator compares this generator with the checksum in compat/README.md.
func CheckGenerator() error {
	hash := sha256.New()
	for i := range 1000 {
		hash.Write(value(i))
	}
	if sum := hex.EncodeToString(hash.Sum(nil)); sum != checksum {
		return fmt.Errorf("the generator differs from compat/README.md: %s", sum)
	}
	return nil
}
