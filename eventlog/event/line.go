package event

import (
	"encoding/json"
	"math/bits"
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// Line is a record as people and programs outside see it: one JSON line of a tail.
type Line struct {
	Seq     uint64          `json:"seq"`
	ID      string          `json:"id"`
	Type    Type            `json:"type"`
	Node    id.Node         `json:"node"`
	Daemon  string          `json:"daemon"`
	Epoch   id.Epoch        `json:"epoch"`
	Time    time.Time       `json:"time"`
	Cause   string          `json:"cause"`
	Payload json.RawMessage `json:"payload"`
	Stale   bool            `json:"stale,omitempty"`
	Refused bool            `json:"refused,omitempty"`
	Lost    bool            `json:"lost,omitempty"`
}

// datable says that a time can be written as RFC 3339. An event's can be any: its publisher may be anybody.
func datable(t time.Time) bool { y := t.UTC().Year(); return y >= 0 && y <= 9999 }

// Line renders r. A payload that is missing is written as an empty object.
func (r Record) Line() Line {
	p := r.Payload
	switch {
	case len(p) == 0:
		p = json.RawMessage("{}")
	case !ValidJSON(p):
		// One hostile publisher must not be able to break every tail.
		p, _ = json.Marshal(map[string][]byte{"malformed": p})
	}
	if !datable(r.Time) { // nor by one that is of no year
		r.Time = time.Time{}
	}
	return Line{
		Seq: r.Seq, ID: r.ID(), Type: r.Type, Node: r.Node, Daemon: r.Daemon, Epoch: r.Epoch, Time: r.Time, Cause: r.Cause,
		Payload: p, Stale: r.Stale(), Refused: r.Marks&MarkRefused != 0, Lost: r.Marks&MarkLost != 0,
	}
}

// Encode is the binary form of r, as it is hashed and stored.
func (r Record) Encode() []byte {
	size := numberSize(r.Seq) + textSize(len(r.Origin)) + numberSize(r.Number) + 1 + r.Draft.size()
	return AppendRecord(make([]byte, 0, size), r)
}

// Encode is the binary form of d.
func (d Draft) Encode() []byte { return AppendDraft(make([]byte, 0, d.size()), d) }

// size is the length of the binary form.
func (d Draft) size() int {
	t := d.Time.UnixMicro()
	return 1 + textSize(len(d.Type)) + textSize(len(d.Node)) + textSize(len(d.Daemon)) + numberSize(uint64(d.Epoch)) +
		numberSize(uint64(t<<1^t>>63)) + textSize(len(d.Cause)) + textSize(len(d.Payload))
}

func textSize(n int) int { return numberSize(uint64(n)) + n }

// numberSize is how many bytes binary.AppendUvarint takes.
func numberSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }
