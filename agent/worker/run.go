package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/workload"
)

// run is one claim on its way. Fields below the line are guarded by Worker.mu.
type run struct {
	claim Claim
	job   string
	grace time.Duration
	// stop ends the staging of inputs.
	stop context.CancelCauseFunc
	// told: the queue has heard that the command was started.
	told atomic.Bool

	phase  Phase
	handle *proc.Handle // nil while staging
	ended  string       // why we end it: ReasonLeaving, or "" while we do not
	lost   string       // why the queue took the claim away
}

var errEnded = errors.New("claim is given up")

// pulse reads how far a run is; not under Worker.mu, because it reads a file. Hung says that its processes cannot be killed.
func pulse(ref ClaimRef, phase Phase, handle *proc.Handle) (b Beat, hung bool) {
	b = Beat{ClaimRef: ref, Phase: phase}
	if handle != nil {
		if p, err := handle.Progress(); err == nil {
			b.Progress, b.ProgressAt = p.Value, p.At
			hung = phase == Running && p.Phase == proc.Unkillable
		}
	}
	return b, hung
}

// lose ends a run whose claim is gone; called under Worker.mu. What has got as far as its answer is left to it: the queue
// will say the same to the answer.
func (r *run) lose(why string, log zerolog.Logger) {
	if r.lost != "" || r.phase == Finishing {
		return
	}
	if why == "" {
		why = "the queue refused the heartbeat"
	}
	r.lost = why
	log.Warn().Str("job", r.job).Str("why", why).Msg("claim lost")
	r.end("claim_lost", log)
}

// end stops staging and the command; called under Worker.mu.
func (r *run) end(why string, log zerolog.Logger) {
	if r.ended == "" || r.lost != "" {
		r.ended = why
	}
	r.stop(errEnded)
	if r.handle != nil {
		if err := r.handle.Stop(r.grace, why); err != nil {
			log.Error().Str("job", r.job).Err(err).Msg("job cannot be told to stop")
		}
	}
}

// accept begins the run of a fresh claim. Its slots are taken before it returns, so that the next offer knows of them.
func (w *Worker) accept(ctx context.Context, c Claim) {
	if c.Lease <= 0 {
		c.Lease = defaultLease
	}
	stage, refusal := w.contract(c)
	if refusal != "" {
		w.avoid.fail(c.Type, refusal) // or we would be granted it again and again
	}
	staging, stop := context.WithCancelCause(ctx)
	r := &run{claim: c, job: jobID(c.ClaimRef), grace: stage.Grace, phase: Staging, stop: stop}
	w.mu.Lock()
	if w.runs[r.job] != nil || w.kept[r.job] != nil {
		w.mu.Unlock()
		stop(nil)
		return // the same grant, told twice
	}
	w.runs[r.job] = r
	if w.draining && refusal == "" {
		refusal = ReasonDraining
	}
	w.mu.Unlock()
	signal(w.beat)
	var grant Grant
	if refusal == "" {
		var ok bool
		if grant, ok = w.ledger.Reserve(r.job, stage.Needs); !ok {
			refusal = ReasonSlots
		}
	}
	w.group.Go(func() {
		defer stop(nil)
		if refusal != "" {
			w.deliver(ctx, r, answer{Action: actRelease, Why: refusal})
			return
		}
		w.stage(ctx, staging, r, stage, grant)
	})
}

// contract finds the stage of a claim, or why it cannot be run here.
func (w *Worker) contract(c Claim) (workload.Stage, string) {
	wl := w.cfg.Workload()
	if wl == nil {
		return workload.Stage{}, ReasonStage
	}
	stage, ok := wl.Stages[c.Type]
	if !ok || !wl.HasConfig(c.Config) {
		return workload.Stage{}, ReasonStage
	}
	return stage, ""
}

// stage brings the inputs here and starts the command. Everything that goes wrong before the command runs hands the claim
// back: no attempt was made.
func (w *Worker) stage(ctx, staging context.Context, r *run, stage workload.Stage, grant Grant) {
	giveBack := func(reason string, err error) {
		if staging.Err() != nil && ctx.Err() == nil {
			reason, err = "", nil // we ended it ourselves
		}
		if err != nil {
			w.log.Warn().Str("job", r.job).Str("reason", reason).Err(err).Msg("claim cannot be run here")
			reason = fmt.Sprintf("%s: %v", reason, err)
		}
		w.free(r)
		w.deliver(ctx, r, w.handBack(r, reason))
	}
	values, err := w.values(staging, r)
	if err != nil {
		if staging.Err() == nil {
			w.avoid.strike(r.claim.Type, ReasonInputs)
		}
		giveBack(ReasonInputs, err)
		return
	}
	argv, env, err := workload.Render(stage, values)
	if err != nil {
		w.avoid.fail(r.claim.Type, ReasonRender)
		giveBack(ReasonRender, err)
		return
	}
	job, err := w.job(r, stage, grant, argv, env)
	if err != nil {
		giveBack(ReasonRender, err)
		return
	}
	if staging.Err() != nil {
		giveBack("", nil)
		return
	}
	handle, err := w.cfg.Runner.Start(ctx, job)
	if ctx.Err() != nil {
		return // adopted next time, if it was started
	}
	if err != nil {
		reason := string(proc.NotStarted)
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			reason = string(proc.DiskFull)
		}
		w.avoid.fail(r.claim.Type, reason)
		giveBack(reason, err)
		return
	}
	if err := reserveAnswer(handle.Dir()); err != nil {
		w.log.Warn().Str("job", r.job).Err(err).Msg("no room laid in for the outcome")
	}
	w.mu.Lock()
	r.handle, r.phase = handle, Running
	if r.ended != "" { // while it was being started
		r.end(r.ended, w.log)
	}
	w.mu.Unlock()
	w.log.Info().Str("job", r.job).Str("type", r.claim.Type).Str("config", string(r.claim.Config)).Msg("job started")
	w.follow(ctx, r, jobRecord{Claim: r.claim, Grant: grant, Outputs: stage.Outputs, Grace: stage.Grace})
}

// handBack is the answer of a claim that made no attempt, or whose attempt we ended because we leave.
func (w *Worker) handBack(r *run, reason string) answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.lost != "" {
		return answer{Action: actNothing, Why: r.lost, Stale: true}
	}
	if reason == "" {
		reason = r.ended
	}
	return answer{Action: actRelease, Why: reason}
}

// values resolves the placeholders of a claim.
func (w *Worker) values(ctx context.Context, r *run) (workload.Values, error) {
	c := r.claim
	v := workload.Values{"self": w.cfg.Self, "out": w.cfg.Runner.OutDir(r.job), "config": string(c.Config)}
	for _, name := range []string{"games", "seed", "simulations", "epochs", "opponents"} {
		v[name] = c.Params[name]
	}
	inputs := maps.Clone(c.Inputs)
	if candidate := inputs["candidate"]; candidate != "" {
		inputs["model"] = candidate // what an evaluation measures
	}
	for _, name := range []string{"model", "dataset", "champion"} {
		digest := inputs[name]
		if digest == "" {
			continue
		}
		err := w.retry(ctx, func() (err error) {
			v[name], err = w.cfg.Artifacts.Ensure(ctx, digest)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("fetch %s %s: %w", name, digest.Short(), err)
		}
	}
	if c.Type == workload.Export {
		err := w.retry(ctx, func() (err error) {
			v["games"], err = w.cfg.Games.Merged(ctx, c.Config, c.Packs)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("merge games: %w", err)
		}
	}
	return v, nil
}

// retry repeats do with growing pauses, Pace.Tries times at most.
func (w *Worker) retry(ctx context.Context, do func() error) error {
	pause := w.pace.Retry
	for try := 1; ; try++ {
		err := do()
		if err == nil || try >= w.pace.Tries || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(jittered(pause)):
		}
		pause = min(2*pause, w.pace.RetryMost)
	}
}

func (w *Worker) job(r *run, stage workload.Stage, grant Grant, argv, env []string) (proc.Job, error) {
	record, err := json.Marshal(jobRecord{
		Claim: r.claim, Grant: grant, Outputs: stage.Outputs, Grace: stage.Grace,
	})
	if err != nil {
		return proc.Job{}, fmt.Errorf("encode job record: %w", err)
	}
	j := proc.Job{
		ID: r.job, Argv: argv, Env: env, Dir: stage.Dir, CPUs: grant.Slots.CPU, Record: record,
		Limits: proc.Limits{
			Timeout: stage.Timeout, NoProgress: stage.NoProgress, Grace: stage.Grace,
			MinFreeBytes: w.cfg.MinFreeMiB << 20,
		},
	}
	if stage.Progress != nil {
		j.Limits.Progress, j.Limits.ProgressGroup = stage.Progress.String(), workload.ProgressGroup(stage.Progress)
	}
	if stage.Needs.DiskMiB > 0 {
		// What a stage asks for is an estimate; what would endanger its neighbours is not.
		j.Limits.OutBytes = (4*stage.Needs.DiskMiB + 256) << 20
	}
	j.GPUs = w.cards(grant)
	return j, nil
}

// cards are those that a job may see; nil hides none, where there is nothing to hide.
func (w *Worker) cards(g Grant) []int {
	if w.Slots().GPU > 0 || len(g.GPUs) > 0 || w.cfg.CardsUnknown != nil && w.cfg.CardsUnknown() {
		return g.GPUs
	}
	return nil
}

// free gives the run's slots back and lets the claim loop know.
func (w *Worker) free(r *run) {
	if w.ledger.Release(r.job) {
		w.Nudge()
	}
}
