package state

import (
	"encoding/binary"
	"encoding/json"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/field"
	"github.com/ringagent/ringagent/internal/id"
)

// appender gives the drafts of one entry their places. It avoids allocations per event: this is the busiest path of the
// whole ring.
type appender struct {
	*txn
	out  []byte   // the records of the entry, one after the other
	seqs []uint64 // of all placed records

	daemon   string // of the last draft that named one, with its current epoch
	epoch    id.Epoch
	assigned bool
}

// batch places what is new in e. What stands already is skipped; if its bytes are not those that stand, nothing is placed.
func (a *appender) batch(e *EventBatch) AppendResult {
	row, known := a.s.origins.get(string(e.Origin))
	if !known {
		row = originRow{Origin: e.Origin, Node: e.Node}
	}
	res := AppendResult{Origin: e.Origin, Next: row.Last + 1, Hash: event.Hash(row.Hash)}
	switch {
	case e.Origin == "" || e.Origin == event.StateOrigin || e.First == 0 || e.First+uint64(len(e.Drafts)) < e.First,
		e.Lost != 0 && (e.Lost < e.First || e.Lost+1+uint64(len(e.Drafts)) < e.Lost):
		res.Refused = "malformed batch"
		return res
	case a.s.IsRevoked(e.Node):
		res.Refused = "node is revoked"
		return res
	case known && row.Node != e.Node:
		res.Altered, res.Refused = true, "origin belongs to another node"
		return res
	case e.First > row.Last+1:
		return res // a gap: the answer says what is expected
	}
	first := e.First // of Drafts[0]
	if e.Lost != 0 {
		first = e.Lost + 1
	}
	skip := 0
	if first <= row.Last {
		skip = int(min(row.Last+1-first, uint64(len(e.Drafts))))
		if !a.same(&row, e, first, skip) {
			res.Altered = true
			return res
		}
	}
	begin := len(a.seqs)
	h := event.Hash(row.Hash)
	if e.Lost > row.Last {
		a.lost(e, row.Last+1)
		row.Last, h = e.Lost, e.Before
	} else if first == row.Last+1 && e.Before != h {
		res.Altered = true // another history led here: a cloned or restored outbox
		return res
	}
	if skip == len(e.Drafts) && begin == len(a.seqs) {
		return res
	}
	row.Marks = appendMark(row.Marks, row.Last, h)
	refused := e.Refused
	for i, d := range e.Drafts {
		reason := ""
		if len(refused) > 0 && refused[0].Draft == i {
			reason, refused = refused[0].Reason, refused[1:]
		}
		if i < skip {
			continue
		}
		row.Last++
		a.m.chain.next(&h, d)
		a.one(e, row.Last, d, reason)
	}
	row.Hash, row.At = hash(h), a.at()
	a.s.origins.put(string(e.Origin), row)
	res.Next, res.Hash = row.Last+1, h
	res.Seqs = a.seqs[begin:len(a.seqs):len(a.seqs)]
	return res
}

// same compares the skip drafts of e that stand already (Drafts[0] has number first) with what stands, as far as the kept
// hashes reach.
func (a *appender) same(row *originRow, e *EventBatch, first uint64, skip int) bool {
	h := e.Before
	for i := 0; ; i++ {
		n := first - 1 + uint64(i) // h is the running hash up to n
		if n == row.Last {
			return h == event.Hash(row.Hash)
		}
		for _, m := range row.Marks {
			if m.N == n && event.Hash(m.Hash) != h {
				return false
			}
		}
		if i == skip {
			return true
		}
		a.m.chain.next(&h, e.Drafts[i])
	}
}

// appendMark keeps the running hashes at the newest batch borders. It copies: older states keep theirs.
func appendMark(marks []mark, n uint64, h event.Hash) []mark {
	if len(marks) >= keptMarks {
		marks = marks[len(marks)-keptMarks+1:]
	}
	out := make([]mark, 0, len(marks)+1)
	return append(append(out, marks...), mark{n, hash(h)})
}

func (a *appender) lost(e *EventBatch, from uint64) {
	payload, _ := json.Marshal(map[string]any{"node_id": e.Node, "from": from, "to": e.Lost})
	a.record(e.Origin, e.Lost, event.MarkLost, event.AppendDraft(nil, event.Draft{
		Type: TypeLost, Node: e.Node, Time: a.at(), Payload: payload}))
}

// one places the draft with bytes b under its number, or a refusal in its stead.
func (a *appender) one(e *EventBatch, number uint64, b []byte, reason string) {
	d, ok := scanDraft(b)
	switch {
	case reason != "":
	case !ok:
		reason = "not an event in its canonical form"
	case !validType(d.typ):
		reason = "event type is malformed"
	case string(d.node) != string(e.Node):
		reason = "event of another node"
	case len(d.payload) > event.MaxPayload:
		reason = "payload is too large"
	case len(d.payload) > 0 && !event.ValidJSON(d.payload):
		reason = "payload is not JSON"
	case ownedByState(d.typ):
		reason = "a fact that only its owner may state"
	}
	if reason != "" {
		payload, _ := json.Marshal(map[string]any{"node_id": e.Node, "type": printable(d.typ), "reason": reason})
		b = event.AppendDraft(nil, event.Draft{Type: TypeRefused, Node: e.Node, Time: a.at(), Payload: payload})
		a.record(e.Origin, number, event.MarkRefused, b)
		return
	}
	var marks byte
	if len(d.daemon) > 0 && a.stale(d.daemon, d.epoch) {
		marks = event.MarkStale
	}
	a.record(e.Origin, number, marks, b)
}

// stale says that a singleton's event does not carry its current epoch. A larger one cannot be: an assignment stands in
// the log before its holder knows of it.
func (a *appender) stale(daemon []byte, epoch id.Epoch) bool {
	if a.daemon != string(daemon) {
		a.daemon = string(daemon)
		as, ok := a.s.assignments.get(a.daemon)
		a.epoch, a.assigned = as.Epoch, ok
	}
	return a.assigned && epoch != a.epoch
}

// record writes what event.AppendRecord would write for a draft that is encoded already.
func (a *appender) record(o event.Origin, number uint64, marks byte, draft []byte) {
	seq := a.s.meta.LogSeq + 1
	start := len(a.out)
	a.out = binary.AppendUvarint(a.out, seq)
	a.out = field.Append(a.out, string(o))
	a.out = binary.AppendUvarint(a.out, number)
	a.out = append(a.out, marks)
	a.out = append(a.out, draft...)
	a.log(seq, a.out[start:len(a.out):len(a.out)])
	a.seqs = append(a.seqs, seq)
}

// scanned is what the state must know of a draft; all of it aliases the draft's bytes.
type scanned struct {
	typ, node, daemon, payload []byte
	epoch                      id.Epoch
}

// scanDraft reads the form that event.AppendDraft writes, and no other: not even a number with needless bytes.
func scanDraft(b []byte) (scanned, bool) {
	var d scanned
	if len(b) == 0 || b[0] != 1 {
		return d, false
	}
	r := field.Read(b[1:])
	d.typ = r.MinimalBytes()
	d.node = r.MinimalBytes()
	d.daemon = r.MinimalBytes()
	d.epoch = id.Epoch(r.Minimal())
	r.Minimal() // time, zigzag: as many bytes as an unsigned number
	r.MinimalBytes()
	d.payload = r.MinimalBytes()
	return d, r.Whole()
}

func validType(t []byte) bool {
	if len(t) == 0 || len(t) > 64 || t[0] < 'A' || t[0] > 'Z' {
		return false
	}
	for _, c := range t {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// printable is a type as far as it may stand in a record.
func printable(t []byte) string {
	if !validType(t) {
		return "UNKNOWN"
	}
	return string(t)
}
