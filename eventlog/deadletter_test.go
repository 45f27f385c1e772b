package eventlog

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/ringagent/ringagent/eventlog/event"
)

// refusing is a store of dead letters that cannot be reached for a while.
type refusing struct {
	Letters
	left atomic.Int32
}

func (r *refusing) Put(ctx context.Context, l Letter) error {
	if r.left.Add(-1) >= 0 {
		return errors.New("no quorum")
	}
	return r.Letters.Put(ctx, l)
}

// TestCursorWaitsForTheDeadLetter: what is neither handled nor written down is not passed over.
func TestCursorWaitsForTheDeadLetter(t *testing.T) {
	t.Parallel()
	d := newDesk(t, filled("x", 2), nil)
	store := &refusing{Letters: d.letters}
	store.left.Store(3)
	got := &seen{}
	d.subscribe(t, Consumer{Name: "c", Letters: store, Handler: func(_ context.Context, r event.Record) error {
		if r.Seq == 1 {
			return errors.New("never")
		}
		got.add(r)
		return nil
	}})
	eventually(t, "passed on", func() bool { return len(got.list()) == 1 })
	l, err := d.letters.List(t.Context())
	if err != nil || len(l) != 1 || l[0].Attempts != 8 {
		t.Error(l, err)
	}
}

func TestCorruptCursor(t *testing.T) {
	t.Parallel()
	ring := filled("x", 5)
	d := newDesk(t, ring, nil)
	caughtUp(t, d.replica, ring)
	if err := d.opt.Cursors.Save(t.Context(), "c", 4); err != nil {
		t.Fatal(err)
	}
	if err := d.db.Update(func(tx *bolt.Tx) error {
		v := append([]byte(nil), tx.Bucket(bucketCursors).Get([]byte("c"))...)
		v[len(v)-1] ^= 1
		return tx.Bucket(bucketCursors).Put([]byte("c"), v)
	}); err != nil {
		t.Fatal(err)
	}
	got := &seen{}
	d.subscribe(t, Consumer{Name: "c", Handler: func(_ context.Context, r event.Record) error { got.add(r); return nil }})
	eventually(t, "everything again", func() bool { return cmp.Equal(upTo(5), got.list()) })
}
