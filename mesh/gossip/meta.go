package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/ringagent/ringagent/internal/id"
)

// MaxMeta is the largest encoded Meta in bytes. Anything larger is pulled by a call.
const MaxMeta = 256

// Reach says how a node can be reached.
type Reach string

// The ways, as `members` shows them.
const (
	ReachUnknown Reach = "unknown"
	ReachDirect  Reach = "direct"
	ReachSession Reach = "session"
	ReachRelay   Reach = "relay"
)

// Meta is what every node knows of every other by gossip. The zero value of a field means that it is not known.
type Meta struct {
	Class    id.Class
	Boot     id.Boot
	Voter    bool
	Draining bool
	Reach    Reach
	Health   string // verdict of NODE_HEALTH_MONITOR, such as "HEALTHY"
	HTTP     string // host:port of the operator's API
	Address  string // host:port under which the node wants to be dialled
	Version  string // of the program
	Protocol uint32 // version of the calls between agents
	State    uint32 // newest version of replicated commands that it supports
	Started  int64  // unix seconds of the boot
}

// metaVersion begins every encoding; a reader takes the fields it knows and ignores later ones.
const metaVersion = 1

// Field numbers of the encoding. They are never used again for something else.
const (
	fieldClass = iota + 1
	fieldBoot
	fieldFlags
	fieldReach
	fieldHealth
	fieldHTTP
	fieldAddress
	fieldVersion
	fieldProtocol
	fieldState
	fieldStarted
)

const (
	flagVoter = 1 << iota
	flagDraining
)

// ErrMetaTooLong is wrapped by Encode.
var ErrMetaTooLong = errors.New("member's facts do not fit")

// Encode packs m: a version byte, then per set field its number, its length and its bytes.
func (m Meta) Encode() ([]byte, error) {
	b := []byte{metaVersion}
	text := func(field byte, s string) {
		if s != "" && len(s) <= MaxMeta {
			b = append(append(b, field, byte(min(len(s), math.MaxUint8))), s[:min(len(s), math.MaxUint8)]...)
		}
	}
	number := func(field byte, v uint64) {
		if v != 0 {
			packed := binary.AppendUvarint(nil, v)
			b = append(append(b, field, byte(len(packed))), packed...)
		}
	}
	var flags uint64
	if m.Voter {
		flags |= flagVoter
	}
	if m.Draining {
		flags |= flagDraining
	}
	text(fieldClass, string(m.Class))
	text(fieldBoot, string(m.Boot))
	number(fieldFlags, flags)
	text(fieldReach, string(m.Reach))
	text(fieldHealth, m.Health)
	text(fieldHTTP, m.HTTP)
	text(fieldAddress, m.Address)
	text(fieldVersion, m.Version)
	number(fieldProtocol, uint64(m.Protocol))
	number(fieldState, uint64(m.State))
	number(fieldStarted, uint64(max(0, m.Started)))
	if len(b) > MaxMeta {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrMetaTooLong, len(b), MaxMeta)
	}
	return b, nil
}

// DecodeMeta unpacks what Encode made, of this version or a later one. Every input gives either a Meta or an error.
func DecodeMeta(b []byte) (Meta, error) {
	var m Meta
	if len(b) == 0 || b[0] < metaVersion {
		return m, errors.New("member's facts: no version")
	}
	for rest := b[1:]; len(rest) > 0; {
		if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
			return Meta{}, errors.New("member's facts: cut short")
		}
		field, value := rest[0], rest[2:2+int(rest[1])]
		rest = rest[2+int(rest[1]):]
		if err := m.set(field, value); err != nil {
			return Meta{}, err
		}
	}
	return m, nil
}

func (m *Meta) set(field byte, value []byte) error {
	var n uint64
	if slices.Contains([]byte{fieldFlags, fieldProtocol, fieldState, fieldStarted}, field) {
		var size int
		if n, size = binary.Uvarint(value); size != len(value) || size == 0 {
			return fmt.Errorf("member's facts: field %d is no number", field)
		}
	}
	switch field {
	case fieldClass:
		m.Class = id.Class(value)
	case fieldBoot:
		m.Boot = id.Boot(value)
	case fieldFlags:
		m.Voter, m.Draining = n&flagVoter != 0, n&flagDraining != 0
	case fieldReach:
		m.Reach = Reach(value)
	case fieldHealth:
		m.Health = string(value)
	case fieldHTTP:
		m.HTTP = string(value)
	case fieldAddress:
		m.Address = string(value)
	case fieldVersion:
		m.Version = string(value)
	case fieldProtocol:
		m.Protocol = uint32(min(n, math.MaxUint32))
	case fieldState:
		m.State = uint32(min(n, math.MaxUint32))
	case fieldStarted:
		m.Started = int64(min(n, math.MaxInt64))
	}
	return nil
}
