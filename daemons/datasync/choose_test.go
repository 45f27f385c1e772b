package datasync

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// shelf is a store of which only the list matters.
type shelf struct {
	kit.Store
	missing map[id.Digest]bool
}

func (s shelf) Path(d id.Digest) (string, bool) { return "", !s.missing[d] }

func (s shelf) Ensure(context.Context, id.Digest) (string, error) { panic("not asked for here") }

// Packs that are joined lie next to each other, are old, counted, known here, and few or small enough.
func TestWhichPacksAreJoined(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	name := func(i int) id.Digest { return id.DigestOf(fmt.Append(nil, i)) }
	for about, c := range map[string]struct {
		n     int
		packs int // join_packs; 0: 64
		spoil func(i int, a *ring.Artifact, e *gamedb.Entered) (missing bool)
		want  string // first-last
	}{
		"too few":   {n: 63, want: ""},
		"enough":    {n: 64, want: "0-63"},
		"very many": {n: 600, want: "0-511"},
		"the young ones stay": {n: 100, want: "0-69", spoil: func(i int, a *ring.Artifact, _ *gamedb.Entered) bool {
			a.Created = now.Add(time.Duration(i-129) * time.Minute)
			return false
		}},
		"and too few are left": {n: 100, want: "", spoil: func(i int, a *ring.Artifact, _ *gamedb.Entered) bool {
			a.Created = now.Add(time.Duration(i-119) * time.Minute)
			return false
		}},
		"the clock of one is ahead": {n: 100, want: "0-69", spoil: func(i int, a *ring.Artifact, _ *gamedb.Entered) bool {
			a.Created = now.Add(time.Duration(i-129) * time.Minute)
			if i%50 == 7 {
				a.Created = now.Add(1000 * time.Hour)
			}
			return false
		}},
		"large in games":      {n: 100, want: "0-19", spoil: func(_ int, a *ring.Artifact, _ *gamedb.Entered) bool { a.Counters["games"] = 500; return false }},
		"large in bytes":      {n: 100, want: "0-31", spoil: func(_ int, a *ring.Artifact, _ *gamedb.Entered) bool { a.Bytes = 1 << 20; return false }},
		"large enough":        {n: 100, want: "", spoil: func(_ int, a *ring.Artifact, _ *gamedb.Entered) bool { a.Bytes = 9 << 20; return false }},
		"one has no receipts": {n: 100, want: "0-29", spoil: func(i int, a *ring.Artifact, _ *gamedb.Entered) bool { a.Safe = i != 30; return false }},
		"one is not here":     {n: 100, want: "0-29", spoil: func(i int, _ *ring.Artifact, _ *gamedb.Entered) bool { return i == 30 }},
		"one is joined": {n: 100, want: "0-29", spoil: func(i int, a *ring.Artifact, _ *gamedb.Entered) bool {
			a.Place = map[bool]uint64{true: a.Seq}[i == 30]
			return false
		}},
		"repeats are not said yet": {n: 100, want: "0-29", spoil: func(i int, _ *ring.Artifact, e *gamedb.Entered) bool {
			e.Repeats = map[bool]int64{true: 1}[i == 30]
			return false
		}},
		"and they are said": {n: 100, want: "0-99", spoil: func(i int, a *ring.Artifact, e *gamedb.Entered) bool {
			e.Repeats = 1
			a.Counters["repeats"] = 1
			return false
		}},
		"it is elsewhere in the ledger": {n: 100, want: "0-29", spoil: func(i int, _ *ring.Artifact, e *gamedb.Entered) bool {
			e.Seq += map[bool]uint64{true: 1}[i == 30]
			return false
		}},
		"few before one that is not": {n: 70, want: "", spoil: func(i int, a *ring.Artifact, _ *gamedb.Entered) bool { a.Safe = i != 7; return false }},
		"few, then enough":           {n: 80, want: "8-79", spoil: func(i int, a *ring.Artifact, _ *gamedb.Entered) bool { a.Safe = i != 7; return false }},
		"what came together stays so": {n: 100, want: "0-27", spoil: func(i int, a *ring.Artifact, e *gamedb.Entered) bool {
			a.Seq = uint64(i/7 + 1)
			e.Seq = a.Seq
			return i == 30
		}},
		"so large came together": {n: 100, want: "", spoil: func(_ int, a *ring.Artifact, e *gamedb.Entered) bool {
			a.Seq, e.Seq, a.Counters["games"] = 1, 1, 101
			return false
		}},
		"in so many bytes": {n: 100, want: "", spoil: func(_ int, a *ring.Artifact, e *gamedb.Entered) bool {
			a.Seq, e.Seq, a.Bytes = 1, 1, 1<<20
			return false
		}},
		"just as large": {n: 100, want: "0-99", spoil: func(_ int, a *ring.Artifact, e *gamedb.Entered) bool {
			a.Seq, e.Seq, a.Counters["games"] = 1, 1, 100
			return false
		}},
		"few are enough":                {n: 4, packs: 4, want: "0-3"},
		"and one less is not":           {n: 3, packs: 4, want: ""},
		"few before one that is not so": {n: 70, packs: 4, want: "0-6", spoil: func(i int, a *ring.Artifact, _ *gamedb.Entered) bool { a.Safe = i != 7; return false }},
		"fewer before one that is not":  {n: 70, packs: 4, want: "4-69", spoil: func(i int, a *ring.Artifact, _ *gamedb.Entered) bool { a.Safe = i != 3; return false }},
		"too many came together":        {n: 600, want: "", spoil: func(_ int, a *ring.Artifact, e *gamedb.Entered) bool { a.Seq, e.Seq = 1, 1; return false }},
	} {
		t.Run(about, func(t *testing.T) {
			t.Parallel()
			store := shelf{missing: map[id.Digest]bool{}}
			j := &joiner{set: JoinSettings{After: kit.Duration(time.Hour), Packs: cmp.Or(c.packs, 64)}, now: func() time.Time { return now }, store: store, unfit: map[id.Digest]bool{}}
			var packs []ring.Artifact
			entered, at := map[id.Digest]gamedb.Entered{}, map[id.Digest]int{}
			for i := range c.n {
				a := ring.Artifact{Digest: name(i), Seq: uint64(i + 1), Safe: true, Bytes: 1000, Created: now.Add(-2 * time.Hour),
					Counters: map[string]int64{ring.CounterGames: 10}}
				e := gamedb.Entered{Seq: a.Seq}
				if c.spoil != nil && c.spoil(i, &a, &e) {
					store.missing[a.Digest] = true
				}
				packs, entered[a.Digest], at[a.Digest] = append(packs, a), e, i
			}
			slices.Reverse(packs)
			var got []int
			for _, a := range j.choose(packs, entered) {
				got = append(got, at[a.Digest])
			}
			slices.Sort(got)
			first, last := 0, -1
			if len(got) > 0 {
				first, last = got[0], got[len(got)-1]
			}
			if want := c.want; len(got) != last-first+1 || len(got) > 0 && fmt.Sprint(first, "-", last) != want || len(got) == 0 && want != "" {
				t.Errorf("%d packs, %d-%d, want %q", len(got), first, last, want)
			}
		})
	}
}
