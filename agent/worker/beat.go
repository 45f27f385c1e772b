package worker

import (
	"context"
	"time"

	"github.com/ringagent/ringagent/internal/proc"
)

// beatLoop renews all claims in one call, three times a lease of the shortest.
func (w *Worker) beatLoop(ctx context.Context) {
	last := time.Now()
	for {
		every := w.beatPeriod()
		select {
		case <-ctx.Done():
			return
		case <-w.beat:
			// The period may be shorter now. It still counts from the last beat: a node that claims all the time must not
			// forget to renew what it has.
		case <-time.After(time.Until(last.Add(every))):
			last = time.Now()
			w.beatOnce(ctx, every)
		}
	}
}

const (
	defaultLease = time.Minute
	leastBeat    = 10 * time.Millisecond
)

func (w *Worker) beatPeriod() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	lease := defaultLease
	for _, r := range w.runs {
		lease = min(lease, r.claim.Lease)
	}
	return max(lease/3, leastBeat)
}

func (w *Worker) beatOnce(ctx context.Context, every time.Duration) {
	w.mu.Lock()
	type pulsing struct {
		ref    ClaimRef
		phase  Phase
		handle *proc.Handle
	}
	var live []pulsing
	for _, r := range w.runs {
		if r.ended == "" || r.ended == ReasonLeaving {
			live = append(live, pulsing{r.claim.ClaimRef, r.phase, r.handle})
		}
	}
	w.mu.Unlock()
	var beats []Beat
	for _, r := range live {
		// A process that withstands KILL, as on a device that hangs, keeps its slots. It will make nothing any more, and must
		// not keep the item from other nodes: its claim runs out.
		if b, hung := pulse(r.ref, r.phase, r.handle); !hung {
			beats = append(beats, b)
		}
	}
	if len(beats) == 0 {
		return
	}
	call, cancel := context.WithTimeout(ctx, min(every, w.pace.Call))
	defer cancel()
	verdicts, err := w.cfg.Queue.Heartbeat(call, beats)
	if err != nil {
		w.log.Debug().Err(err).Msg("heartbeat not answered")
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range verdicts {
		if v.OK {
			continue
		}
		for _, r := range w.runs {
			if r.claim.ClaimID == v.ClaimID {
				r.lose(v.Reason, w.log)
			}
		}
	}
}
