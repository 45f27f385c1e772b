package host

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A driver that hangs is asked once, however often somebody wants to know, and nobody waits for it for ever. When it answers after
// all, it is asked again.
func TestHungDriverIsAskedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var a asking
		var runs atomic.Int32
		hangs := make(chan struct{})
		run := func() ([]GPU, error) {
			runs.Add(1)
			<-hangs
			return []GPU{{Name: "x"}}, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		if _, err := a.ask(ctx, run); err == nil || time.Since(begin) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if _, err := a.ask(t.Context(), run); err == nil || time.Since(begin) != gpuTime+2*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		begin = time.Now()
		if _, err := a.ask(t.Context(), run); err == nil || time.Since(begin) > 0 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if runs.Load() != 1 {
			t.Errorf("asked %d times", runs.Load())
		}
		close(hangs)
		synctest.Wait()
		if gpus, err := a.ask(t.Context(), run); err != nil || len(gpus) != 1 || runs.Load() != 2 {
			t.Errorf("%v, %v, asked %d times", gpus, err, runs.Load())
		}
		broken := errors.New("no driver")
		if _, err := a.ask(t.Context(), func() ([]GPU, error) { return nil, broken }); !errors.Is(err, broken) {
			t.Error(err)
		}
	})
}
