package training

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// Packs that were exported are not exported anew because they have been joined, also where one of them had not been.
func TestJoinedPacksAreNoNewGames(t *testing.T) {
	t.Parallel()
	e := exported{Marks: []uint64{3, 10}, Late: []id.Digest{"late"}}
	for name, c := range map[string]struct {
		a    ring.Artifact
		want bool
	}{
		"exported":                {ring.Artifact{Seq: 10, Safe: true}, false},
		"new":                     {ring.Artifact{Seq: 11, Safe: true}, true},
		"without receipts":        {ring.Artifact{Seq: 11}, false},
		"late":                    {ring.Artifact{Seq: 4, Safe: true, Digest: "late"}, true},
		"joined of exported ones": {ring.Artifact{Seq: 99, Place: 10, First: 4, Safe: true}, false},
		"joined of new ones":      {ring.Artifact{Seq: 99, Place: 20, First: 11, Safe: true}, true},
		"joined of old and new":   {ring.Artifact{Seq: 99, Place: 11, First: 4, Safe: true}, false},
	} {
		if e.counts(c.a) != c.want {
			t.Errorf("%s: counts %v", name, !c.want)
		}
	}
}

// The newest games of a window are the last that were gathered, whatever has been joined since.
func TestWindowIsInTheOrderOfGames(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, n := ringOf(t, c4)
		set, _ := kit.Decode(nil, Export().Settings.(ExportSettings))
		set.MaxGames = 150
		counters := map[string]int64{kit.CounterGames: 100}
		pack := func(d id.Digest, seq, place, first uint64) ring.Artifact {
			return ring.Artifact{Digest: d, Kind: ring.KindPack, Config: c4, Seq: seq, Place: place, First: first, Safe: true, Holders: []id.Node{n.ID}, Counters: counters}
		}
		v := r.View("AUTO_EXPORT")
		v.Library = shelf{v.Library, []ring.Artifact{pack("third", 3, 0, 0), pack("fourth", 4, 0, 0), pack("joined", 9, 2, 1)}}
		plan, err := set.plan(v, v.AsOf)
		if err != nil || len(plan.Items) != 1 {
			t.Fatalf("%+v, %v", plan, err)
		}
		var got []id.Digest
		for _, in := range plan.Items[0].Inputs {
			got = append(got, in.Digest)
		}
		if !slices.Equal(got, []id.Digest{"third", "fourth"}) {
			t.Errorf("%v", got)
		}
	})
}

// shelf is a library with these packs.
type shelf struct {
	kit.Library
	packs []ring.Artifact
}

func (s shelf) Artifacts(k ring.Kind, _ id.Config) []ring.Artifact {
	if k == ring.KindPack {
		return s.packs
	}
	return nil
}
