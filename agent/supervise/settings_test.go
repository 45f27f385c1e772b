package supervise

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
)

// New settings end a daemon and start it at once; that is neither a failure nor a restart, and heals what had failed.
func TestNewSettingsAreNoRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var good atomic.Bool
		b := start(t, kit.Spec{Name: "A", Scope: kit.ScopeNode, New: func(kit.Env) (kit.Daemon, error) {
			if !good.Load() {
				return nil, errors.New("settings make no sense")
			}
			return kit.Run(func(ctx context.Context) error { <-ctx.Done(); return nil }), nil
		}})
		failed := b.want(t, "A", Restarting).Restarts
		good.Store(true)
		for range 2 {
			before := time.Now()
			if err := b.Renew("A"); err != nil {
				t.Fatal(err)
			}
			if r := b.want(t, "A", Running); r.Restarts != failed || time.Since(before) > time.Second {
				t.Errorf("%d restarts, %d before; running after %v", r.Restarts, failed, time.Since(before))
			}
		}
		if err := b.Renew("B"); !errors.Is(err, ErrUnknown) {
			t.Error(err)
		}
		b.finish(t)
	})
}

// A daemon that skips itself by settings that are being changed is asked again: its reason may be gone with them. One that
// skips itself otherwise rests until then.
func TestSkippedByOldSettingsIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		looks, look := make(chan struct{}), make(chan struct{})
		b := start(t, kit.Spec{Name: "A", Scope: kit.ScopeNode, New: func(kit.Env) (kit.Daemon, error) {
			if n := asked.Add(1); n%2 == 1 { // has read its settings, and tells later what follows from them
				looks <- struct{}{}
				<-look
				return nil, fmt.Errorf("no device: %w", kit.ErrSkip)
			}
			return kit.Run(func(ctx context.Context) error { <-ctx.Done(); return nil }), nil
		}})
		<-looks
		for _, anew := range []func(string) error{b.Renew, b.Restart} {
			if err := anew("A"); err != nil {
				t.Fatal(err)
			}
			look <- struct{}{}
			b.want(t, "A", Running)
			if err := b.Renew("A"); err != nil {
				t.Fatal(err)
			}
			<-looks
		}
		look <- struct{}{}
		b.want(t, "A", Stopped)
		b.finish(t)
	})
}
