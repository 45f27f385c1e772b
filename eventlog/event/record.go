package event

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/ringagent/ringagent/internal/field"
	"github.com/ringagent/ringagent/internal/id"
)

// Type is the canonical upper-case name of an event, e.g. MODEL_PROMOTED.
type Type string

// MaxPayload is the largest payload an event may carry, in bytes. Larger things are artifacts.
const MaxPayload = 64 << 10

// MaxCause and MaxDaemon are the most bytes of a draft's cause, which is an event's id, and of its daemon's name. Who reads
// the log expects no record to be much larger than its payload.
const (
	MaxCause  = 256
	MaxDaemon = 64
)

// Origin identifies one outbox file: 16 random hex digits made when the file is created, so that a lost, restored or
// cloned disk is never mistaken for old news. Events that ride on a command of the state machine have Origin "state".
type Origin string

// StateOrigin is the origin of events that the state machine itself makes; their number is their seq.
const StateOrigin Origin = "state"

// Draft is an event as its publisher states it: everything but its place.
type Draft struct {
	Type    Type
	Node    id.Node   // who states it
	Daemon  string    // which daemon of that node, or "" for the agent itself and external clients
	Epoch   id.Epoch  // the singleton's epoch, 0 when a node-scope part publishes
	Time    time.Time // for people; order is Seq
	Cause   string    // id of the event that led to this one, or ""
	Payload json.RawMessage
}

// Marks that the state machine puts on a record.
const (
	// MarkStale is on an event that carried an older epoch than its daemon's current assignment: recorded, but nobody may
	// act on it.
	MarkStale byte = 1 << iota
	// MarkRefused is on a record that consumes a number whose event could not be accepted; the payload says why.
	MarkRefused
	// MarkLost is on a record that stands for a range of numbers that an outbox could no longer supply.
	MarkLost
)

// Record is an event with its place in the log.
type Record struct {
	Seq    uint64 // position in the log, from 1
	Origin Origin
	Number uint64 // position in its origin, from 1, contiguous
	Marks  byte
	Draft
}

// ID names an event for ever: origin and number, joined by a dash.
func (r Record) ID() string { return MakeID(r.Origin, r.Number) }

// MakeID joins an origin and a number to an event id.
func MakeID(o Origin, n uint64) string { return string(o) + "-" + strconv.FormatUint(n, 10) }

// Stale says that nobody may act on the record.
func (r Record) Stale() bool { return r.Marks&MarkStale != 0 }

// Hash is the running hash of the log after a record.
type Hash [sha256.Size]byte

// String is the hash in lower-case hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Next is the running hash after a record with the given binary form.
func (h Hash) Next(encoded []byte) Hash {
	d := sha256.New()
	d.Write(h[:])
	d.Write(encoded)
	var out Hash
	d.Sum(out[:0])
	return out
}

// ErrMalformed is returned for bytes that are no draft or record.
var ErrMalformed = errors.New("malformed event bytes")

const codecVersion = 1

// AppendDraft appends the binary form of d to b. The form is canonical: equal drafts give equal bytes.
func AppendDraft(b []byte, d Draft) []byte {
	b = append(b, codecVersion)
	b = field.Append(b, string(d.Type))
	b = field.Append(b, string(d.Node))
	b = field.Append(b, d.Daemon)
	b = binary.AppendUvarint(b, uint64(d.Epoch))
	b = binary.AppendVarint(b, d.Time.UnixMicro())
	b = field.Append(b, d.Cause)
	return field.Append(b, d.Payload)
}

// AppendRecord appends the binary form of r to b.
func AppendRecord(b []byte, r Record) []byte {
	b = binary.AppendUvarint(b, r.Seq)
	b = field.Append(b, string(r.Origin))
	b = binary.AppendUvarint(b, r.Number)
	b = append(b, r.Marks)
	return AppendDraft(b, r.Draft)
}

// DecodeDraft reads a draft that fills b exactly. The payload aliases b.
func DecodeDraft(b []byte) (Draft, error) {
	d := decoder{field.Read(b)}
	out := d.draft(&Decoder{})
	return out, d.end()
}

// peek is DecodeDraft for those who want to know of a few fields only. What it returns aliases b.
func peek(b []byte) (typ, daemon, cause, payload []byte, ok bool) {
	d := decoder{field.Read(b)}
	version := d.Byte()
	typ = d.Bytes()
	d.Bytes() // node
	daemon = d.Bytes()
	d.Uvarint()
	written := datable(time.UnixMicro(d.Varint()))
	cause = d.Bytes()
	payload = d.Bytes()
	return typ, daemon, cause, payload, written && version == codecVersion && d.end() == nil
}

// DecodeRecord reads a record that fills b exactly. The payload aliases b.
func DecodeRecord(b []byte) (Record, error) { return new(Decoder).Record(b) }

// Decoder reads one record after the other. Texts that stand in a record as they stood in the one before, as origin, type,
// node and daemon often do, are made only once. The zero value is ready for use, by one goroutine.
type Decoder struct{ origin, typ, node, daemon string }

// Record is DecodeRecord.
func (r *Decoder) Record(b []byte) (Record, error) {
	d := decoder{field.Read(b)}
	var out Record
	out.Seq = d.Uvarint()
	out.Origin = Origin(d.again(&r.origin))
	out.Number = d.Uvarint()
	out.Marks = d.Byte()
	out.Draft = d.draft(r)
	return out, d.end()
}

type decoder struct{ field.Reader }

func (d *decoder) draft(last *Decoder) Draft {
	if d.Byte() != codecVersion {
		d.Fail()
	}
	var out Draft
	out.Type = Type(d.again(&last.typ))
	out.Node = id.Node(d.again(&last.node))
	out.Daemon = d.again(&last.daemon)
	out.Epoch = id.Epoch(d.Uvarint())
	out.Time = time.UnixMicro(d.Varint()).UTC()
	out.Cause = d.str()
	if p := d.Bytes(); len(p) > 0 {
		out.Payload = json.RawMessage(p)
	}
	return out
}

func (d *decoder) end() error {
	if !d.Whole() {
		return ErrMalformed
	}
	return nil
}

func (d *decoder) str() string { return string(d.Bytes()) }

// again is str for a text that is probably last, which it becomes.
func (d *decoder) again(last *string) string {
	if b := d.Bytes(); string(b) != *last {
		*last = string(b)
	}
	return *last
}
