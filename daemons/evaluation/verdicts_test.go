package evaluation

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// However many candidates wait for their verdict when somebody takes the decisions up again: each gets one. Whether the queue
// still keeps their evaluations, and whether the clock of the judge is a little behind those who measured, changes nothing.
func TestEveryCandidateGetsOneVerdict(t *testing.T) {
	t.Parallel()
	const many = verdicts + 20
	for name, c := range map[string]struct {
		behind time.Duration
		kept   bool
	}{"kept": {0, true}, "forgotten": {0, false}, "judge's clock behind": {10 * time.Second, false}} {
		synctest.Test(t, func(t *testing.T) {
			r := kittest.New(t, c4)
			n := r.AddNode("a", id.Core, ring.Slots{CPU: 1})
			bad := func(i int) { // a candidate and its matches, as they are left when the queue has forgotten even the key
				if c.kept {
					evaluated(r, n, fmt.Sprint("m", i), nil, fmt.Sprintf("no matches %d\n", i))
					return
				}
				m := r.AddArtifact(ring.KindModel, c4, fmt.Sprint("m", i), nil, nil, n)
				r.AddArtifact(ring.KindMatches, c4, fmt.Sprint("no matches ", i), nil, []id.Digest{m.Digest}, n)
			}
			for i := range many {
				bad(i)
				time.Sleep(time.Minute)
			}
			env := n.Env(Promotion(), "")
			env.Now = func() time.Time { return time.Now().Add(-c.behind) }
			d, err := Promotion().New(env)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- d.Run(ctx) }()
			time.Sleep(10 * time.Minute)
			for i := range many { // and those that come one by one
				bad(many + i)
				time.Sleep(2 * time.Minute)
			}
			cancel()
			<-ended
			told := map[id.Digest]int{}
			for _, e := range r.Log(event.PromotionRejected.Type()) {
				p, err := event.PromotionRejected.Read(e)
				if err != nil {
					t.Fatal(err)
				}
				told[p.Digest]++
			}
			if all := len(r.Log(event.PromotionRejected.Type())); len(told) != 2*many || all != 2*many {
				t.Errorf("%s: %d verdicts on %d of %d candidates", name, all, len(told), 2*many)
			}
		})
	}
}

func TestVerdictsAreBounded(t *testing.T) {
	t.Parallel()
	d := kit.Decided{}
	at := time.Unix(1e9, 0)
	for i := range 300 {
		d = with(d, id.DigestOf([]byte(fmt.Sprint(i))), kit.Verdict{Gate: "score_champion", At: at.Add(time.Duration(i) * time.Minute)})
	}
	full := kit.Decided{}
	for i := range 300 {
		when := at.Add(time.Duration(i)*time.Minute + time.Nanosecond).In(time.FixedZone("x", 3600))
		full = with(full, id.DigestOf([]byte(fmt.Sprint(i))), kit.Verdict{Gate: "games_heuristic", At: when, Finished: when})
	}
	if raw, err := json.Marshal(full); err != nil || len(raw) > 15<<10 {
		t.Errorf("a note of %d bytes, %v", len(raw), err)
	}
	if len(d.Verdicts) != verdicts || !d.Has("anybody", at) || d.Has("anybody", at.Add(290*time.Minute)) {
		t.Errorf("%d verdicts, before %v", len(d.Verdicts), d.Before)
	}
}

// What is left of a candidate whose verdict was dropped is the time at which its matches were made, by the clock of that machine.
func TestDroppedVerdictIsNotGivenAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, n, _ := promoting(t)
		m := r.AddArtifact(ring.KindModel, c4, "m", nil, nil, n)
		r.AddArtifact(ring.KindMatches, c4, "matches", nil, []id.Digest{m.Digest}, n)
		d := with(kit.Decided{}, m.Digest, kit.Verdict{Finished: time.Now().Add(-10 * time.Second)}) // the coordinator's clock is behind
		for i := range verdicts {
			d = with(d, id.DigestOf([]byte(fmt.Sprint(i))), kit.Verdict{Finished: time.Now().Add(time.Duration(i) * time.Minute)})
		}
		left := forgotten(r.View(""), c4, ring.Name{})
		if _, kept := d.Verdicts[m.Digest]; kept || len(left) != 1 || !d.Has(m.Digest, left[0].Finished) {
			t.Errorf("kept %v, %+v, before %v", kept, left, d.Before)
		}
	})
}
