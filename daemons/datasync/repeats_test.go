package datasync

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// once is what counts as games with receipts.
func once(r *kittest.Ring) (n int64) {
	for _, a := range r.Artifacts(ring.KindPack) {
		if a.Safe {
			n += a.Games()
		}
	}
	return n
}

// Games that several nodes hand in count once, and none of them stops counting, also when the node that noticed loses what it
// knew.
func TestGameOfTwoNodesCountsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		core, other := r.AddNode("core", id.Core, ring.Slots{}), r.AddNode("other", id.Core, ring.Slots{})
		one, two := r.AddNode("one", id.Edge, ring.Slots{}), r.AddNode("two", id.Edge, ring.Slots{})
		one.Play("job-1", c4, true, kittest.IDs("g", 8)...)
		two.Play("job-2", c4, true, append(kittest.IDs("g", 5), "h-0", "h-1")...)
		one.Start(EphemeralSync(), "")
		two.Start(EphemeralSync(), "")
		stop := core.Start(AutoSync(), `{"every":"10s"}`)
		r.Eventually(time.Minute, "all is safe", func() bool { return safe(r) == 15 })
		r.Eventually(time.Minute, "every game counts once", func() bool { return once(r) == 10 })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		ledger := filepath.Join(core.Dir(), "games", string(c4)+".ledger")
		if err := os.WriteFile(ledger, []byte("damaged, and by no means a database"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, side := range []string{"-wal", "-shm"} {
			_ = os.Remove(ledger + side)
		}
		core.Start(AutoSync(), `{"every":"10s"}`)
		other.Start(AutoSync(), `{"every":"10s"}`)
		two.Play("job-3", c4, true, "g-7", "h-0", "i-0")
		r.Eventually(time.Minute, "more is safe", func() bool { return safe(r) == 18 })
		r.Eventually(time.Minute, "they count once, too", func() bool { return once(r) == 11 })
		time.Sleep(time.Minute)
		if n := once(r); n != 11 || len(r.Refused()) > 0 {
			t.Errorf("%d games, refused %v", n, r.Refused())
		}
	})
}

// Two jobs of a node that give one id to two games lose neither, also where both are packed at once: they count as one, and the
// second is in a pack for people to look at.
func TestIDUsedByTwoJobs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t, c4)
		core, edge := r.AddNode("core", id.Core, ring.Slots{}), r.AddNode("edge", id.Edge, ring.Slots{})
		for i := range 3 {
			edge.Play(fmt.Sprint("job-", i), c4, true, "same", fmt.Sprint("own-", i))
			time.Sleep(time.Second) // other times of completion make other contents
		}
		edge.Start(EphemeralSync(), "")
		core.Start(AutoSync(), `{"every":"10s"}`)
		r.Eventually(time.Minute, "all jobs are released", func() bool { return len(edge.Gone()) == 3 })
		if got := games(r, core); !slices.Equal(got, []string{"own-0", "own-1", "own-2", "same", "same", "same"}) {
			t.Errorf("%v are elsewhere", got)
		}
		r.Eventually(time.Minute, "each id counts once", func() bool { return once(r) == 4 })
	})
}

// A ring that was set back may not know a pack of the ledger any more: its games are then subtracted from no other pack.
func TestNothingIsSubtractedForAPackThatDoesNotCount(t *testing.T) {
	t.Parallel()
	pack := func(seq uint64, safe bool) ring.Artifact {
		return ring.Artifact{Digest: id.DigestOf([]byte{byte(seq)}), Seq: seq, Safe: safe, Counters: map[string]int64{ring.CounterGames: 3}}
	}
	lost := pack(4, true) // joined of others, and nobody has a copy any more
	joined := func(place uint64) ring.Artifact { a := lost; a.Place = place; return a }
	m := &merger{entered: map[id.Config]map[id.Digest]gamedb.Entered{c4: {
		pack(1, true).Digest: {Seq: 1}, pack(2, true).Digest: {Seq: 2, Repeats: 2}}}}
	for _, c := range []struct {
		name  string
		packs []ring.Artifact
		said  int
		anew  bool
	}{
		{"both count", []ring.Artifact{pack(1, true), pack(2, true), pack(3, false)}, 1, false},
		{"the older is unknown", []ring.Artifact{pack(2, true), pack(3, false)}, 0, true},
		{"the older has no receipts", []ring.Artifact{pack(1, false), pack(2, true), pack(3, false)}, 0, true},
		{"the older is joined into one that is not here", []ring.Artifact{pack(2, true), pack(3, false), joined(1)}, 1, false},
		{"one that was joined later is not here", []ring.Artifact{pack(1, true), pack(2, true), pack(3, false), joined(3)}, 1, false},
		{"the older is in the place of a younger one", []ring.Artifact{pack(2, true), pack(3, false), joined(3)}, 0, false},
		{"a younger one is joined", []ring.Artifact{pack(1, true), pack(3, false), joined(2)}, 0, false},
		{"the view is old", []ring.Artifact{pack(2, true)}, 0, false},
		{"there is no view", nil, 0, false},
	} {
		now := time.Unix(0, 0)
		m.missing, m.now = map[id.Config]time.Time{}, func() time.Time { return now }
		for range 2 {
			if _, err := m.repeated(c4, c.packs, merged{Seq: 3}); err != nil {
				t.Errorf("%s: %v soon after a start, when receipts may not be known again yet", c.name, err)
			}
			now = now.Add(uncountedFor - 1)
		}
		said, err := m.repeated(c4, c.packs, merged{Seq: 3})
		if len(said) != c.said || errors.Is(err, gamedb.ErrLedger) != c.anew || (err != nil) != c.anew {
			t.Errorf("%s: said %v, %v", c.name, said, err)
		}
	}
}
