package main

import (
	"encoding/binary"
	"errors"
	"hash"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/field"
)

// keeper does for every event what is asked of each node of the ring, however it is written: the running hash of its origin
// and that of the log, and a copy of the log, which is never synced here. Together with TLS between the nodes and the check of
// the payload by the publisher that is what no program goes without that does what this one is for: no Raft, no state but the
// two hashes, no transactions, no indexes, nobody who reads, and still all in one process. How it is arranged here is one way, and
// its rate no bound of what is possible.
type keeper struct {
	sum         hash.Hash // SHA-256
	origin, log event.Hash
	seq         uint64
	file        *leastLog
	record, all []byte
}

const keptOrigin = "0123456789abcdef"

// keep takes the drafts of a round, each behind its length.
func (k *keeper) keep(round []byte) error {
	k.all = k.all[:0]
	for r := field.Read(round); !r.Whole(); {
		d := r.Bytes()
		if d == nil {
			return event.ErrMalformed
		}
		k.next(&k.origin, d)
		k.seq++
		k.record = binary.AppendUvarint(k.record[:0], k.seq)
		k.record = field.Append(k.record, keptOrigin)
		k.record = append(binary.AppendUvarint(k.record, k.seq), 0)
		k.record = append(k.record, d...)
		k.next(&k.log, k.record)
		k.all = append(append(k.all, k.record...), k.log[:]...)
	}
	return k.file.put(k.all)
}

// next is h.Next(b), without allocations.
func (k *keeper) next(h *event.Hash, b []byte) {
	k.sum.Reset()
	k.sum.Write(h[:])
	k.sum.Write(b)
	k.sum.Sum(h[:0])
}

// draft is a publisher's next event, nil if it is none of the catalogue's.
func (l *least) draft() []byte {
	if l.keepers == nil {
		return nil
	}
	d, err := event.Catalogue().Prepare(l.event, event.ByExternal)
	if err != nil {
		return nil
	}
	d.Time = time.Now()
	return event.AppendDraft(nil, d)
}

// round has the events of all publishers committed.
func (l *least) round(waiting []handed) error {
	if l.keepers == nil {
		return l.commit(make([]byte, len(waiting)*leastEvent))
	}
	b := make([]byte, 0, leastPublishers*leastRoom)
	for _, h := range waiting {
		if h.draft == nil {
			return event.ErrMalformed
		}
		l.stated.next(&l.stated.origin, h.draft)
		b = field.Append(b, h.draft)
	}
	if err := errors.Join(l.commit(b), <-l.kept); err != nil {
		return err
	}
	go func() { l.kept <- l.keepers[0].keep(b) }() // while the publishers make their next events
	return nil
}
