package supervise

import (
	"context"
	"math"
	"testing"
	"testing/synctest"

	"github.com/ringagent/ringagent/daemons/kit"
)

// A figure that has become unknown is shown no more: neither as it was nor as zero.
func TestUnknownFigureIsNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		figures := make(chan float64)
		b := start(t, kit.Spec{Name: "SYNC", Scope: kit.ScopeNode, New: func(env kit.Env) (kit.Daemon, error) {
			return kit.Run(func(ctx context.Context) error {
				for {
					select {
					case v := <-figures:
						env.Gauge("unsynced_games", v)
					case <-ctx.Done():
						return nil
					}
				}
			}), nil
		}})
		figures <- 3
		if v, ok := b.want(t, "SYNC", Running).Gauges["unsynced_games"]; !ok || v != 3 {
			t.Errorf("shows %v %v, want 3", v, ok)
		}
		figures <- math.NaN()
		if v, ok := b.want(t, "SYNC", Running).Gauges["unsynced_games"]; ok {
			t.Errorf("shows %v, though nobody knows", v)
		}
		b.finish(t)
	})
}
