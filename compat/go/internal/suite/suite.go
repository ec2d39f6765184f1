// Package suite is what the Go programs share: arguments, the report lines that xtask reads, and the tally of what a
// group has read. It knows no client library.
package suite

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"ottla/compat/internal/records"
)

const (
	// SegmentBytes is the segment.bytes of a suite's topic: small enough that segments roll.
	SegmentBytes = "4194304"
	// RetentionMs is what the configs step sets.
	RetentionMs = "259200000"
)

// Suite is one run of one client.
type Suite struct {
	Bootstrap         string
	Records           int
	BaseMs            int64
	Topic             string
	IdempotentTopic   string
	Group             string
	IdempotentRecords int
}

// Brokers are the addresses to begin with.
func (s *Suite) Brokers() []string {
	return strings.Split(s.Bootstrap, ",")
}

// Outcome is what a step has to say about itself.
type Outcome struct {
	Records int
	Bytes   int64
	Note    string
}

// New reads the command line.
func New(client string) (*Suite, error) {
	s := &Suite{}
	run := ""
	flag.StringVar(&s.Bootstrap, "bootstrap", "", "host:port of brokers, between commas")
	flag.IntVar(&s.Records, "records", 5000, "how many records")
	flag.Int64Var(&s.BaseMs, "base-ms", 0, "timestamp of record 0")
	flag.StringVar(&run, "run", "", "suffix of topic names")
	flag.Parse()
	s.Topic = "compat-" + client + "-" + run
	s.IdempotentTopic = s.Topic + "-idempotent"
	s.Group = s.Topic + "-group"
	s.IdempotentRecords = max(1000, s.Records/20)
	return s, records.CheckGenerator()
}

// Step runs a step and reports it; a failure ends the program.
func (s *Suite) Step(name string, run func() (Outcome, error)) {
	start := time.Now()
	outcome, err := run()
	verdict := "ok"
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		verdict = "FAIL"
		outcome = Outcome{Note: strings.Join(strings.Fields(err.Error()), " ")}
	}
	fmt.Printf("STEP\t%s\t%s\t%d\t%d\t%.2f\t%s\n",
		name, verdict, outcome.Records, outcome.Bytes, time.Since(start).Seconds(), outcome.Note)
	if err != nil {
		os.Exit(1)
	}
}

// Share is the consecutive range of records that codec number at of count gets.
func (s *Suite) Share(at, count int) (from, to int) {
	return s.Records * at / count, s.Records * (at + 1) / count
}

// TimeLookup is one lookup by time and its exact answer per partition, -1 for none.
type TimeLookup struct {
	Timestamp int64
	Offsets   [records.Partitions]int64
}

// TimeLookups are the lookups of the offsets step.
func (s *Suite) TimeLookups() []TimeLookup {
	n := s.Records
	var lookups []TimeLookup
	for _, i := range []int{0, 1, n / 3, n/2 + 1, n - 1, n, n + 5000} {
		lookup := TimeLookup{Timestamp: s.BaseMs + 10*int64(i) - 5}
		for p := range lookup.Offsets {
			lookup.Offsets[p] = records.OffsetAtOrAfter(int32(p), i, n)
		}
		lookups = append(lookups, lookup)
	}
	return lookups
}

// WaitFor polls a fact that a broker spreads in its own time (metadata, deletion).
func WaitFor(what string, condition func() (bool, error)) error {
	deadline := time.Now().Add(time.Minute)
	for {
		holds, err := condition()
		if err != nil || holds {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within a minute", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Tally is what the members of a group have read together; members are goroutines.
//
// The play: A reads a quarter and waits for B. Both read until half is read and B had a share in it. A leaves, B waits
// until it has every partition and reads to three quarters. Without the waiting a fast reader would be through before the
// group changes. C goes on.
type Tally struct {
	suite    *Suite
	mutex    sync.Mutex
	seen     []bool
	distinct int
	twice    int
	bytes    int64
	taken    map[string]int
	first    map[int32]int64 // offset with which C began
	bJoined  bool
}

// NewTally starts with nothing read.
func NewTally(s *Suite) *Tally {
	return &Tally{suite: s, seen: make([]bool, s.Records), taken: map[string]int{}, first: map[int32]int64{}}
}

// Take checks one record that a member has read.
func (t *Tally) Take(member string, got records.Record) error {
	i, err := records.Check(got, t.suite.BaseMs)
	if err != nil {
		return err
	}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.seen[i] {
		t.twice++
	} else {
		t.distinct++
	}
	t.seen[i] = true
	t.bytes += int64(len(got.Value))
	t.taken[member]++
	if _, known := t.first[got.Partition]; member == "C" && !known {
		t.first[got.Partition] = got.Offset
	}
	return nil
}

// Reached says whether that part of all records has been read.
func (t *Tally) Reached(numerator, denominator int) bool {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return t.distinct >= t.suite.Records*numerator/denominator
}

// BJoined notes that B has partitions.
func (t *Tally) BJoined() {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.bJoined = true
}

// halfIsShared is what both members read for: half of the records are taken, and B had a share in them.
func (t *Tally) halfIsShared() bool {
	t.mutex.Lock()
	tookB := t.taken["B"] > 0
	t.mutex.Unlock()
	return tookB && t.Reached(1, 2)
}

// MayRead says whether a member may take records now, given how many partitions it has.
func (t *Tally) MayRead(member string, assigned int) bool {
	switch member {
	case "A":
		t.mutex.Lock()
		defer t.mutex.Unlock()
		return t.bJoined || t.distinct < t.suite.Records/4
	case "B":
		return !t.halfIsShared() || assigned == records.Partitions
	default:
		return true
	}
}

// Done says whether a member has come to the end of its part.
func (t *Tally) Done(member string, assigned int) bool {
	switch member {
	case "A":
		return t.halfIsShared()
	case "B":
		return t.Reached(3, 4) && assigned == records.Partitions
	default:
		return t.Reached(1, 1)
	}
}

// CheckCommitted requires, after A and B have left, that what is committed is what they have read.
func (t *Tally) CheckCommitted(committed map[int32]int64) error {
	for p := range int32(records.Partitions) {
		read := int64(0)
		for i := int(p); i < len(t.seen); i += records.Partitions {
			if t.seen[i] {
				read++
			}
		}
		if committed[p] != read {
			return fmt.Errorf("partition %d: %d records read, %d committed", p, read, committed[p])
		}
	}
	return nil
}

// Finish requires, after C has read the rest, that it began where the others had committed.
func (t *Tally) Finish(committed map[int32]int64) (Outcome, error) {
	for p, offset := range t.first {
		if offset != committed[p] {
			return Outcome{}, fmt.Errorf("C started at %d/%d, committed was %d", p, offset, committed[p])
		}
	}
	if t.twice > 0 {
		return Outcome{}, fmt.Errorf("%d records came twice", t.twice)
	}
	note := fmt.Sprintf("A=%d B=%d C=%d twice=0", t.taken["A"], t.taken["B"], t.taken["C"])
	return Outcome{Records: t.suite.Records, Bytes: t.bytes, Note: note}, nil
}

// InOrderOnce is the reading side of the idempotent step: numbers, each once, rising within a partition.
type InOrderOnce struct {
	count int
	seen  map[int]bool
	last  map[int32]int
}

// NewInOrderOnce expects the numbers below count.
func NewInOrderOnce(count int) *InOrderOnce {
	return &InOrderOnce{count: count, seen: map[int]bool{}, last: map[int32]int{}}
}

// Take checks the next value of a partition.
func (o *InOrderOnce) Take(partition int32, value []byte) error {
	i, err := strconv.Atoi(string(value))
	if err != nil {
		return err
	}
	if o.seen[i] {
		return fmt.Errorf("%d came twice", i)
	}
	if before, ok := o.last[partition]; ok && before > i {
		return fmt.Errorf("%d came after %d", i, before)
	}
	o.seen[i] = true
	o.last[partition] = i
	return nil
}

// Complete says whether all have come.
func (o *InOrderOnce) Complete() bool {
	return len(o.seen) == o.count
}

// Finish is given the sum of the end offsets: nothing may lie in the log that was not produced.
func (o *InOrderOnce) Finish(inLog int64) (Outcome, error) {
	if inLog != int64(o.count) {
		return Outcome{}, fmt.Errorf("the log holds %d records, %d were produced", inLog, o.count)
	}
	return Outcome{Records: o.count, Note: fmt.Sprintf("partitions used=%d", len(o.last))}, nil
}

// Refused requires that err is the wanted refusal.
func Refused(what string, err, want error) error {
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("%s: %v, not %w", what, err, want)
}
