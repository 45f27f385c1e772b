package agent

import (
	"context"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader/state"
)

// ReplaceSettings puts ring settings in the place of version expect unchecked, as an older agent may have.
func ReplaceSettings(ctx context.Context, e kit.Effects, expect uint64, s ring.Settings) error {
	own := e.(effects)
	_, err := own.leader.Propose(ctx, state.Command{
		Kind: state.KindSettings, At: own.now(), By: own.self, Body: state.PutSettings{Expect: expect, Settings: s},
	})
	return err
}

// EpochOf is the epoch that a daemon's commands carry, 0 without a fence.
func EpochOf(e kit.Effects) id.Epoch {
	if f := e.(effects).fence; f != nil {
		return f.Epoch
	}
	return 0
}

// TimingAtStart is the timing that an agent on the folder would be built with.
func TimingAtStart(dir string) ring.Timing {
	return (&Agent{dir: &dataDir{root: dir}}).lastTiming()
}

// Merged gathers packs for an export on the node of a store.
func Merged(ctx context.Context, s kit.Store, c id.Config, packs ...id.Digest) (string, error) {
	return workGames{s.(*artifacts).a}.Merged(ctx, c, packs)
}
