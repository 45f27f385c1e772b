package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh"
)

// The log's head is the highest of which a voter knows: one that the coordinator does not reach knows of an old one, and one that
// cannot be reached is not waited for once another has answered.
func TestHeadIsTheHighest(t *testing.T) {
	t.Parallel()
	const stale, fresh, spare, away, gone id.Node = "1", "2", "3", "4", "5"
	hash := event.Hash{7}
	ask := func(ctx context.Context, n id.Node) (replicaState, error) {
		switch n {
		case stale:
			return replicaState{Voter: true, HeadSeq: 10}, nil
		case fresh:
			return replicaState{Voter: true, HeadSeq: 20, HeadHash: hash}, nil
		case spare:
			return replicaState{HeadSeq: 30}, nil
		case away:
			<-ctx.Done()
			return replicaState{}, ctx.Err()
		}
		return replicaState{}, errors.New("connection refused")
	}
	waits := map[int]time.Duration{2: headWait} // for those who do not answer; by the case's number
	for i, nodes := range [][]id.Node{{stale, fresh, spare}, {fresh, stale}, {away, stale, gone, fresh}, {fresh, gone}} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				if h, err := highestHead(t.Context(), nodes, ask); err != nil || h.Seq != 20 || h.Hash != hash {
					t.Errorf("%+v, %v", h, err)
				}
				if took := time.Since(begin); took != waits[i] || took > 300*time.Millisecond {
					t.Errorf("took %s", took)
				}
			})
		})
	}
	for _, nodes := range [][]id.Node{{}, {gone}, {spare, gone}} {
		if h, err := highestHead(t.Context(), nodes, ask); err == nil {
			t.Errorf("%v: %+v", nodes, h)
		}
	}
}

// still is a copy of the log that does not grow.
type still struct{}

func (still) WaitDurable(ctx context.Context, _ uint64) error {
	<-ctx.Done()
	return fmt.Errorf("wait: %w", ctx.Err())
}

// Who follows a copy that may have fallen behind is sent away, so that it goes to another node; while the coordinator confirms it, it
// waits for as long as it likes.
func TestStreamOfAStandingCopyEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const look = 5 * time.Second
		begin := time.Now()
		grows := func() bool { return time.Since(begin) <= time.Minute }
		if err := awaitRecord(t.Context(), still{}, 7, look, grows); !mesh.IsCode(err, mesh.CodeUnavailable) {
			t.Errorf("ended with %v", err)
		}
		if took := time.Since(begin); took != time.Minute+look {
			t.Errorf("ended after %s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*look)
		defer cancel()
		if err := awaitRecord(ctx, still{}, 7, look, func() bool { return true }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("its own end: %v", err)
		}
	})
}
