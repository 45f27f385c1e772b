package eventlog

import (
	"time"

	"github.com/rs/zerolog"
)

// AlarmKind names what is wrong in a way that programs can tell apart.
type AlarmKind string

// Alarms. Each stays until whoever raised it says that it is over.
const (
	AlarmOutboxDamaged   AlarmKind = "outbox_damaged"   // the file was quarantined; a new origin began
	AlarmOutboxDegraded  AlarmKind = "outbox_degraded"  // nothing can be stored now: full or failing disk
	AlarmOutboxAltered   AlarmKind = "outbox_altered"   // the log holds other bytes under a number that this outbox used
	AlarmEventsLost      AlarmKind = "events_lost"      // the ring lost events that this outbox no longer keeps
	AlarmReplicaDiverged AlarmKind = "replica_diverged" // this copy of the log differs from the ring's
	AlarmReplicaCorrupt  AlarmKind = "replica_corrupt"  // a stored record fails its check
	AlarmReplicaDegraded AlarmKind = "replica_degraded" // the copy cannot be written now
	AlarmReplicaShort    AlarmKind = "replica_short"    // this copy lacks events that nobody who answers can supply
	AlarmPeerDiffers     AlarmKind = "peer_differs"     // a peer handed out records that are not the ring's
)

// Alarm is something an operator has to know. Over ends an earlier alarm of the same kind.
type Alarm struct {
	Kind   AlarmKind
	Detail string
	Seq    uint64 // of the record that it is about, or 0
	At     time.Time
	Over   bool
}

// alarms hands alarms to the log and to whoever shows them.
type alarms struct {
	log  zerolog.Logger
	sink func(Alarm)
	now  func() time.Time
}

func (a alarms) raise(kind AlarmKind, seq uint64, detail string) {
	a.log.Error().Str("alarm", string(kind)).Uint64("seq", seq).Msg(detail)
	if a.sink != nil {
		a.sink(Alarm{Kind: kind, Detail: detail, Seq: seq, At: a.now()})
	}
}

func (a alarms) clear(kind AlarmKind, detail string) {
	a.log.Info().Str("alarm", string(kind)).Bool("over", true).Msg(detail)
	if a.sink != nil {
		a.sink(Alarm{Kind: kind, Detail: detail, At: a.now(), Over: true})
	}
}
