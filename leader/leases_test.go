package leader

import (
	"testing"
	"testing/synctest"
	"time"

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

func TestDaemonThatAnotherMayRunIsNotNamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := leasesOfTwo(t)
		named := func() bool {
			r, err := l.answer(oneNode, renewCall{Boot: oneBoot})
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
