package agent

import (
	"context"
	"errors"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/state"
	"github.com/ringagent/ringagent/mesh"
)

// Times of leaving. None of them is that of a stop: who leaves on purpose has the time that its work needs.
const (
	jobsLimit     = 10 * time.Minute // for running jobs to end by themselves, if the operator names none
	jobsLimitMost = 7 * 24 * time.Hour
	handBackLimit = 2 * time.Minute  // for jobs to be ended and their claims to be answered
	pushLimit     = 2 * time.Minute  // for finished games to get their receipts
	departure     = 30 * time.Second // for the ring to note that this node has left
)

// Leave takes this node out of the ring and ends Run. First it gives up what it holds, while it is still a member: running
// jobs end (with Drain they may come to their own end) and every claim is answered, then games are pushed until they have
// their receipts or the time is over. Only then the ring is told. It returns with what is left behind; nothing has changed
// where it fails. When ctx ends, or the agent is stopped meanwhile, the departure is called off.
func (a *Agent) Leave(ctx context.Context, in api.Leave) (api.Departure, error) {
	limit := jobsLimit
	if in.LimitSeconds != nil {
		if limit = time.Duration(*in.LimitSeconds * float64(time.Second)); !in.Drain || limit < 0 || limit > jobsLimitMost {
			return api.Departure{}, api.Errorf(api.CodeInvalid, "limit_seconds: want 0 to %.0f, together with drain", jobsLimitMost.Seconds())
		}
	}
	if !a.departing.CompareAndSwap(false, true) {
		return api.Departure{}, api.Errorf(api.CodeRefused, "this node is leaving already")
	}
	defer a.departing.Store(false)
	if err := a.mayLeave(); err != nil {
		return api.Departure{}, err
	}
	if err := a.leader.Confirm(ctx); err != nil {
		return api.Departure{}, decided(err)
	}
	ctx, cancel := a.whileRunning(ctx)
	defer cancel()
	a.setDraining(true)
	out, err := a.depart(ctx, in.Drain, limit)
	if err != nil {
		a.setDraining(false)
		select {
		case <-a.stopping: // it may have set it before
			a.setDraining(true)
		default:
		}
		return api.Departure{}, err
	}
	select {
	case a.leaving <- struct{}{}:
	case <-a.stopping: // Run ends anyhow
	}
	return out, nil
}

// whileRunning is ctx, ended also when Run stops.
func (a *Agent) whileRunning(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-a.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// setDraining stops claiming and says so, or takes it back.
func (a *Agent) setDraining(on bool) {
	a.draining.Store(on)
	_ = a.mesh.UpdateMeta(func(m *mesh.Meta) { m.Draining = on })
	if on {
		a.worker.Drain()
	} else {
		a.worker.Resume()
		a.introduceAgain()
	}
}

func (a *Agent) depart(ctx context.Context, drain bool, limit time.Duration) (api.Departure, error) {
	called := func() error {
		if ctx.Err() == nil {
			return nil
		}
		return api.Errorf(api.CodeFailed, "leaving was called off; this node is still a member")
	}
	if err := a.endJobs(ctx, drain, limit); err != nil {
		a.log.Warn().Err(err).Msg("jobs were left behind")
	}
	if err := called(); err != nil {
		return api.Departure{}, err
	}
	a.pushLast(withLimit(ctx, pushLimit))
	if err := called(); err != nil {
		return api.Departure{}, err
	}
	out := api.Departure{Done: api.Done{OK: true, Detail: "left the ring"}}
	out.UnsyncedGames, _ = a.unsyncedHere(ctx)
	if err := a.stateLeft(ctx); err != nil {
		return api.Departure{}, err
	}
	return out, nil
}

// endJobs waits until no claim of this node's is without its answer.
func (a *Agent) endJobs(ctx context.Context, drain bool, limit time.Duration) error {
	if drain {
		idle, cancel := context.WithTimeout(ctx, limit)
		err := a.worker.Idle(idle)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		a.log.Warn().Err(err).Msg("jobs did not end in time and are handed back")
	}
	back, cancel := context.WithTimeout(ctx, handBackLimit)
	defer cancel()
	return a.worker.Leave(back)
}

// stateLeft has the ring note that this boot has left. Where the outcome of one attempt is unknown it asks again: the
// second statement changes nothing, and a boot that has left must not go on as a member.
func (a *Agent) stateLeft(ctx context.Context) error {
	// From here on only the end of Run calls it off: whoever asked may be gone, and the ring may have heard it.
	ctx, end := a.whileRunning(context.WithoutCancel(ctx))
	defer end()
	ctx, cancel := context.WithTimeout(ctx, departure)
	defer cancel()
	for {
		_, err := a.leader.Propose(ctx, a.command(state.KindStatus, state.SetStatus{Node: a.node.ID, Boot: a.boot, Status: ring.Left, Cause: "leave"}))
		again := errors.Is(err, leader.ErrNoCoordinator) || errors.Is(err, leader.ErrUnknownOutcome)
		if err == nil || !again || !pause(ctx, 200*time.Millisecond) {
			return decided(err)
		}
	}
}

// mayLeave refuses a voter that the quorum cannot spare, before anything is given up for it. The coordinator decides.
func (a *Agent) mayLeave() error {
	st := a.leader.Stats()
	if !a.isVoter() {
		return nil
	}
	if len(st.Voters) == 1 {
		return api.Errorf(api.CodeRefused, "this is the ring's only voter").WithHint("enrol other core nodes first")
	}
	if st.AliveVoters-1 < len(st.Voters)/2+1 {
		return api.Errorf(api.CodeRefused, "this voter cannot be spared: %d of %d answer", st.AliveVoters, len(st.Voters)).
			WithHint("bring another core node up and wait until it votes; see: ringagent leader")
	}
	return nil
}
