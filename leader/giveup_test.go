package leader

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/leader/state"
)

// sparing is a Caller whose coordinator removes a voter after some refusals.
type sparing struct {
	Caller
	refusals int
	code     state.Code
	asked    int
}

func (s *sparing) CallRaw(_ context.Context, n id.Node, method string, _ []byte) ([]byte, error) {
	if method == methodWho {
		return seal1(json.Marshal(whoAnswer{Coordinator: n, Term: 1})), nil
	}
	if s.asked++; s.asked <= s.refusals {
		return seal1(nil, &Refused{Code: string(s.code)}), nil
	}
	return seal1(json.Marshal(faultyAnswer{Removed: true, Index: 7})), nil
}

// A voter with bad files that cannot be spared now, while the disk of another one stalls, asks again; it ends when it has been
// refused for as long as a dead voter is waited for, or at once if it is refused for another reason.
func TestVoterThatCannotBeSparedNowAsksAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		refusals int
		code     state.Code
		takes    time.Duration // below 0: the whole patience
		removed  bool
	}{
		"removed":               {0, "", 0, true},
		"another one stalls":    {5, state.CodeRefused, 5 * time.Second, true},
		"another one is gone":   {1 << 20, state.CodeRefused, -1, false},
		"it may not ask at all": {1 << 20, state.CodeUnauth, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := bare(Ports{Seeds: func() []id.Node { return []id.Node{oneNode} }})
				n.finder.n = n
				n.cfg.Self.Node = twoNode
				n.cfg.Caller = &sparing{refusals: c.refusals, code: c.code}
				if c.takes < 0 {
					c.takes = max(n.times().VoterDead, 30*time.Second)
				}
				begin := time.Now()
				index, err := n.giveUpVote(t.Context())
				if (err == nil) != c.removed || c.removed && index != 7 || err != nil && !errors.As(err, new(*Refused)) {
					t.Errorf("index %d, %v", index, err)
				}
				if took := time.Since(begin); took != c.takes {
					t.Errorf("took %s", took)
				}
			})
		})
	}
}
