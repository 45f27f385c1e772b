package event

import (
	"encoding/json"
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

// Line renders r. A payload that is missing is written as an empty object.
func (r Record) Line() Line {
	p := r.Payload
	switch {
	case len(p) == 0:
		p = json.RawMessage("{}")
	case !json.Valid(p):
		// One hostile publisher must not be able to break every tail.
		p, _ = json.Marshal(map[string][]byte{"malformed": p})
	}
	return Line{
		Seq: r.Seq, ID: r.ID(), Type: r.Type, Node: r.Node, Daemon: r.Daemon, Epoch: r.Epoch, Time: r.Time, Cause: r.Cause,
		Payload: p, Stale: r.Stale(), Refused: r.Marks&MarkRefused != 0, Lost: r.Marks&MarkLost != 0,
	}
}

// Encode is the binary form of r, as it is hashed and stored.
func (r Record) Encode() []byte { return AppendRecord(nil, r) }

// Encode is the binary form of d.
func (d Draft) Encode() []byte { return AppendDraft(nil, d) }
