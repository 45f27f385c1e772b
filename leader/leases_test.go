package leader

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

const (
	oneNode, twoNode id.Node = "0000000000000001", "0000000000000002"
	oneBoot, twoBoot id.Boot = "00000000000000b1", "00000000000000b2"
)

// leasesOfTwo are those of a coordinator whose state has two nodes, of which the first runs AUTO_EXPORT.
func leasesOfTwo(t *testing.T) *leases {
	t.Helper()
	n := bare(Ports{})
	fill(t, n)
	apply(t, n, 8, state.KindToken, state.PutToken{Token: ring.Token{ID: "t", SecretHash: "s", Class: id.Core, Uses: 1, Expires: time.Unix(2e9, 0)}})
	two := ring.Member{ID: twoNode, Name: "n2", KeyHash: "k2"}
	apply(t, n, 9, state.KindEnrol, state.Enrol{TokenID: "t", SecretHash: "s", Class: id.Core, Member: two})
	two.Boot = twoBoot
	apply(t, n, 10, state.KindReport, state.Report{Member: two})
	return newLeases(&term{n: n, began: time.Now()})
}

// A node that Raft does not reach is told nothing: what it holds ends in its own time and not before, for its disk may only have
// been slow for some seconds.
func TestNodeThatRaftDoesNotReachIsToldNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := leasesOfTwo(t)
		first, err := l.answer(oneNode, renewCall{Boot: oneBoot}, true)
		if err != nil || len(first.Held) != 1 {
			t.Fatalf("%+v, %v", first, err)
		}
		told := l.until["AUTO_EXPORT"]
		clock := SystemClock()
		h := &Holder{n: &Node{cfg: Config{Clock: clock}}, held: map[string]*lease{}}
		if !h.take(first, readClock(clock)) {
			t.Fatal("not held")
		}
		time.Sleep(time.Second)
		r, err := l.answer(oneNode, renewCall{Boot: oneBoot}, false)
		if err != nil || len(r.Held) > 0 || r.Unknown {
			t.Fatalf("%+v, %v", r, err)
		}
		if l.until["AUTO_EXPORT"] != told {
			t.Error("its lease was made longer")
		}
		if !h.take(r, readClock(clock)) {
			t.Error("what it holds was ended at once")
		}
	})
}

func TestDaemonThatAnotherMayRunIsNotNamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := leasesOfTwo(t)
		named := func() bool {
			r, err := l.answer(oneNode, renewCall{Boot: oneBoot}, true)
			if err != nil || r.Unknown {
				t.Fatalf("%+v, %v", r, err)
			}
			return len(r.Held) == 1
		}
		if !named() {
			t.Fatal("its holder is not named")
		}
		// Two was told since; the state that is read here does not show it.
		l.settle(ring.Assignment{Daemon: "AUTO_EXPORT", Node: twoNode, Boot: twoBoot}, l.t.n.times())
		if named() {
			t.Fatal("two are named")
		}
		times := l.t.n.times()
		time.Sleep(times.Lease + times.Margin - time.Nanosecond)
		if named() {
			t.Fatal("named before the other's lease is over")
		}
		time.Sleep(time.Nanosecond)
		if !named() {
			t.Fatal("not named after the other's lease")
		}
		// Whoever is running no more is not waited for.
		l.settle(ring.Assignment{Daemon: "AUTO_EXPORT", Node: twoNode, Boot: "00000000000000b0"}, times)
		if !named() {
			t.Fatal("not named though the other's boot was replaced")
		}
	})
}

// A lease that was answered under a longer timing is waited for by a coordinator that knows the shorter one only.
func TestFirstWaitOfATermKnowsFormerTimings(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, n *Node){
		"by an entry": func(t *testing.T, n *Node) {
			apply(t, n, 12, state.KindSettings, state.PutSettings{Settings: ring.Settings{Timing: ring.TimingLAN, Voters: 3}, Expect: 2})
		},
		"by a snapshot": func(t *testing.T, n *Node) {
			other := bare(Ports{})
			var b bytes.Buffer
			if err := state.WriteSnapshot(&b, n.machine.View()); err != nil {
				t.Fatal(err)
			}
			if err := (fsm{n: other}).Restore(io.NopCloser(&b)); err != nil {
				t.Fatal(err)
			}
			apply(t, other, 12, state.KindSettings, state.PutSettings{Settings: ring.Settings{Timing: ring.TimingLAN, Voters: 3}, Expect: 2})
			if err := state.WriteSnapshot(&b, other.machine.View()); err != nil {
				t.Fatal(err)
			}
			if err := (fsm{n: n}).Restore(io.NopCloser(&b)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := leasesOfTwo(t)
				n := l.t.n
				apply(t, n, 11, state.KindSettings, state.PutSettings{Settings: ring.Settings{Timing: ring.TimingWAN, Voters: 3}, Expect: 1})
				time.Sleep(time.Minute)
				a, _ := n.machine.View().Assignment("AUTO_EXPORT")
				long := n.times().Lease + n.times().Margin
				changed := time.Now()
				change(t, n)
				short := n.times().Lease + n.times().Margin
				if short >= long {
					t.Fatalf("%s is not shorter than %s", short, long)
				}
				for _, c := range []struct{ after, want time.Duration }{
					{2 * time.Second, long}, // as soon as the lease may be gone, counted from the change
					{long - short, long},
					{long, long + short}, // nothing of the former timing is left
				} {
					l.t.began = changed.Add(c.after)
					if got := l.over(n.machine.View(), a, n.times()).Sub(changed); got != c.want {
						t.Errorf("a term that begins %s after the change waits until %s after it, want %s", c.after, got, c.want)
					}
				}
			})
		})
	}
}

// Who starts from a snapshot knows what was answered before it: none is taken while a lease under a former timing may run.
func TestNoSnapshotHidesALongerLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := leasesOfTwo(t).t.n
		put := func(index, expect uint64, timing ring.Timing) {
			apply(t, n, index, state.KindSettings, state.PutSettings{Settings: ring.Settings{Timing: timing, Voters: 3}, Expect: expect})
		}
		put(11, 1, ring.TimingWAN)
		time.Sleep(time.Minute)
		long := n.times().Lease + n.times().Margin
		changed := time.Now() // answered until now
		put(12, 2, ring.TimingLAN)
		var taken raft.FSMSnapshot
		for taken == nil {
			var err error
			if taken, err = (fsm{n: n}).Snapshot(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) || time.Since(changed) > time.Minute {
				t.Fatalf("none after %s: %v", time.Since(changed), err)
			}
			if taken == nil {
				time.Sleep(100 * time.Millisecond)
			}
		}
		var b bytes.Buffer
		if err := state.WriteSnapshot(&b, taken.(snapshot).s); err != nil {
			t.Fatal(err)
		}
		next := bare(Ports{})
		if err := (fsm{n: next}).Restore(io.NopCloser(&b)); err != nil {
			t.Fatal(err)
		}
		l := newLeases(&term{n: next, began: time.Now()})
		a, _ := next.machine.View().Assignment("AUTO_EXPORT")
		if over := l.over(next.machine.View(), a, next.times()).Sub(changed); over < long {
			t.Errorf("who starts from the snapshot moves daemons %s after the change, want %s at the earliest", over, long)
		}
	})
}
