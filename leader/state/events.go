package state

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	stdhash "hash"
	"time"

	"crypto/sha256"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/field"
	"github.com/ringagent/ringagent/internal/id"
)

// Types of the records that stand in the place of events that could not be had.
const (
	TypeRefused event.Type = "EVENT_REFUSED" // in the place of an event that cannot be accepted
	TypeLost    event.Type = "EVENTS_LOST"   // in the place of a range of numbers; its Number is the last of them
)

// chain computes running hashes without allocating.
type chain struct {
	h   stdhash.Hash
	buf []byte
}

func newChain() chain { return chain{sha256.New(), make([]byte, 0, sha256.Size)} }

// next is h.Next(b).
func (c *chain) next(h *event.Hash, b []byte) {
	c.h.Reset()
	c.buf = append(c.buf[:0], h[:]...)
	c.h.Write(c.buf)
	c.h.Write(b)
	c.buf = c.h.Sum(c.buf[:0])
	copy(h[:], c.buf)
}

// AppendEvents makes the entry of batches of drafts; at is the proposer's clock. The sum of BatchSize over the batches and
// 16 bytes must stay within MaxEntry.
func AppendEvents(at time.Time, batches []EventBatch) []byte {
	size := 16
	for i := range batches {
		size += BatchSize(&batches[i])
	}
	b := append(make([]byte, 0, size), format, byte(KindEvents))
	b = binary.AppendVarint(b, at.UnixMicro())
	b = binary.AppendUvarint(b, uint64(len(batches)))
	for i := range batches {
		e := &batches[i]
		b = field.Append(b, string(e.Origin))
		b = field.Append(b, string(e.Node))
		b = binary.AppendUvarint(b, e.First)
		b = binary.AppendUvarint(b, e.Lost)
		b = append(b, e.Before[:]...)
		b = binary.AppendUvarint(b, uint64(len(e.Refused)))
		for _, r := range e.Refused {
			b = binary.AppendUvarint(b, uint64(r.Draft))
			b = field.Append(b, r.Reason)
		}
		b = binary.AppendUvarint(b, uint64(len(e.Drafts)))
		for _, d := range e.Drafts {
			b = field.Append(b, d)
		}
	}
	return b
}

// BatchSize is the most bytes that a batch takes in an entry.
func BatchSize(e *EventBatch) int {
	n := len(e.Origin) + len(e.Node) + sha256.Size + 6*binary.MaxVarintLen64
	for _, r := range e.Refused {
		n += len(r.Reason) + 2*binary.MaxVarintLen64
	}
	for _, d := range e.Drafts {
		n += len(d) + binary.MaxVarintLen32
	}
	return n
}

func (t *txn) appendEvents(b []byte) (Result, error) {
	size := len(b)
	r := field.Read(b)
	t.cmd.At = time.UnixMicro(r.Varint()).UTC()
	n := r.Count()
	batches := make([]EventBatch, 0, n)
	drafts := 0
	for range n {
		e := EventBatch{Origin: event.Origin(r.Bytes()), Node: id.Node(r.Bytes()), First: r.Uvarint(), Lost: r.Uvarint()}
		copy(e.Before[:], r.Take(sha256.Size))
		for range r.Count() {
			e.Refused = append(e.Refused, Refusal{Draft: int(r.Uvarint()), Reason: string(r.Bytes())})
		}
		k := r.Count()
		e.Drafts = make([][]byte, k)
		for i := range e.Drafts {
			e.Drafts[i] = r.Bytes()
		}
		drafts += k
		batches = append(batches, e)
	}
	if y := t.cmd.At.Year(); !r.Whole() || y < 1 || y > 9999 {
		return Result{}, fmt.Errorf("event batches: %w", ErrUnknownCommand)
	}
	a := appender{txn: t, out: make([]byte, 0, size+48*drafts), seqs: make([]uint64, 0, drafts)}
	t.placed = make([]Placed, 0, drafts)
	results := make([]AppendResult, len(batches))
	for i := range batches {
		results[i] = a.batch(&batches[i])
	}
	return Result{Index: t.index, Seqs: a.seqs, Value: results}, nil
}

// place puts one event of the state machine or of a command at the end of the log.
func (t *txn) place(d event.Draft) uint64 {
	if d.Time.IsZero() {
		d.Time = t.at()
	}
	seq := t.s.meta.LogSeq + 1
	b := event.AppendRecord(nil, event.Record{Seq: seq, Origin: event.StateOrigin, Number: seq, Draft: d})
	t.log(seq, b)
	return seq
}

func (t *txn) log(seq uint64, b []byte) {
	h := (*event.Hash)(&t.s.meta.LogHash)
	t.m.chain.next(h, b)
	t.s.meta.LogSeq = seq
	t.placed = append(t.placed, Placed{seq, *h, b})
}

// draft is a fact that the machine states about the command at hand.
func (t *txn) draft(typ event.Type, node id.Node, payload map[string]any) event.Draft {
	f := t.fence()
	// Marshalling a map sorts its keys; the values are strings, numbers and maps of them, which cannot fail.
	b, err := json.Marshal(payload)
	if err != nil {
		b = []byte("{}")
	}
	return event.Draft{Type: typ, Node: node, Daemon: f.Daemon, Epoch: f.Epoch, Time: t.at(), Payload: b}
}

func (t *txn) fact(typ event.Type, node id.Node, payload map[string]any) {
	t.facts = append(t.facts, t.draft(typ, node, payload))
}
