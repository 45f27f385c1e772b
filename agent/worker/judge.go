package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ringagent/ringagent/internal/blob"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/workload"
)

// follow takes a started command to its answer. It returns early, leaving everything as it is, when ctx ends.
func (w *Worker) follow(ctx context.Context, r *run, rec jobRecord) {
	told, quit := context.WithCancel(ctx)
	w.group.Go(func() { w.tellStarted(told, r) })
	status, err := w.waitJob(ctx, r)
	quit()
	if err != nil {
		return
	}
	w.setPhase(r, Judging)
	a := w.judge(ctx, r, rec, status)
	if ctx.Err() != nil {
		return
	}
	w.deliver(ctx, r, a)
}

// waitJob waits for the command through whatever the disk says meanwhile; the only error is the end of ctx.
func (w *Worker) waitJob(ctx context.Context, r *run) (proc.Status, error) {
	for {
		status, err := r.handle.Wait(ctx)
		if err == nil || ctx.Err() != nil {
			return status, err
		}
		w.log.Error().Str("job", r.job).Err(err).Msg("job cannot be followed")
		select {
		case <-ctx.Done():
			return status, ctx.Err()
		case <-time.After(w.pace.RetryMost):
		}
	}
}

func (w *Worker) setPhase(r *run, p Phase) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r.phase = p
}

const ranEvery = 20 * time.Millisecond

// tellStarted tells that the command is being executed, as soon as it is, and repeats that until it is heard or the
// command has ended: then the answer says it.
func (w *Worker) tellStarted(ctx context.Context, r *run) {
	for !r.handle.Ran() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(ranEvery):
		}
	}
	for pause := w.pace.Retry; ; pause = min(2*pause, w.pace.RetryMost) {
		call, cancel := context.WithTimeout(ctx, w.pace.Call)
		err := w.cfg.Queue.Started(call, r.claim.ClaimRef)
		cancel()
		if err == nil {
			r.told.Store(true)
			return
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, ErrConflict) {
			w.mu.Lock()
			r.lose("the claim had ended when the job started", w.log)
			w.mu.Unlock()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(jittered(pause)):
		}
	}
}

// judge decides what a command that has ended was worth. The run's slots are free when it returns, and were held until
// the outputs were looked at.
func (w *Worker) judge(ctx context.Context, r *run, rec jobRecord, st proc.Status) answer {
	defer w.free(r)
	w.mu.Lock()
	ended, lost := r.ended, r.lost
	w.mu.Unlock()
	o := Outcome{
		Reason: string(st.Reason), Detail: st.Detail, Started: st.Ran(), Result: Failed,
		ExitCode: st.ExitCode, Signal: st.Signal, Usage: st.Usage,
	}
	if st.Ran() {
		o.Seconds = st.Ended.Sub(st.Started).Seconds()
	}
	log := w.log.With().Str("job", r.job).Str("reason", o.Reason).Str("detail", o.Detail).Logger()
	switch {
	case lost != "":
		return answer{Action: actNothing, Why: lost, Stale: true, Outcome: o}
	case st.Reason == proc.Stopped && (ended == ReasonLeaving || st.Detail == ReasonLeaving):
		return answer{Action: actRelease, Why: ReasonLeaving, Outcome: o}
	case !st.Ran():
		// Nothing was tried: another node may have what is missing here.
		log.Warn().Msg("job cannot be run here")
		w.avoid.fail(r.claim.Type, o.Reason)
		return answer{Action: actRelease, Why: o.Reason + ": " + o.Detail, Outcome: o}
	case st.Reason == proc.Exited && st.ExitCode == 2 && o.Seconds < w.pace.Template.Seconds():
		w.avoid.fail(r.claim.Type, ReasonTemplate)
		o.Result, o.Reason = Refused, ReasonTemplate
		o.Detail = "exit code 2 at once: the command does not understand its arguments" + w.lastWords(r)
	case st.Reason == proc.DiskFull:
		w.avoid.fail(r.claim.Type, o.Reason)
		if empty(r.handle, rec) {
			// Nobody will miss it, and everybody needs the room. Finished games stay.
			if err := proc.RemoveAll(r.handle.OutDir()); err != nil {
				log.Error().Err(err).Msg("outputs not removed")
			}
		}
	case !st.OK():
		if st.Reason == proc.Exited {
			o.Reason = ReasonExitCode
		}
		if st.Reason != proc.Lost { // as when the machine starts anew: nobody saw what became of it, and that says nothing of its type
			w.avoid.strike(r.claim.Type, o.Reason)
		}
		o.Detail += w.lastWords(r)
	default:
		return w.collect(ctx, r, rec, st, o)
	}
	log.Warn().Str("result", string(o.Result)).Msg("job failed")
	return answer{Action: actFinish, Outcome: o}
}

const lastWordsBytes = 300

// lastWords is the last line that the command printed, for people.
func (w *Worker) lastWords(r *run) string {
	tail, err := r.handle.LogTail(4096)
	if err != nil {
		return ""
	}
	lines := strings.FieldsFunc(proc.Sanitise(tail), func(c rune) bool { return c == '\n' })
	if len(lines) == 0 {
		return ""
	}
	last := lines[len(lines)-1]
	return ": " + strings.ToValidUTF8(last[:min(len(last), lastWordsBytes)], "")
}

// collect checks the outputs of a command that claims success and stores them.
func (w *Worker) collect(ctx context.Context, r *run, rec jobRecord, st proc.Status, o Outcome) answer {
	artifacts, err := proc.Check(ctx, r.handle.OutDir(), st.Started, owed(rec.Outputs), w.cfg.Validators)
	if err == nil {
		err = w.belong(ctx, r, artifacts)
	}
	w.free(r) // what follows is the agent's own work
	if err != nil {
		w.avoid.strike(r.claim.Type, ReasonOutputs)
		o.Reason, o.Detail = ReasonOutputs, err.Error()
		w.log.Warn().Str("job", r.job).Str("type", r.claim.Type).Err(err).Msg("job ended well, but its outputs are not what it owes")
		return answer{Action: actFinish, Outcome: o}
	}
	w.setPhase(r, Publishing)
	for _, a := range artifacts {
		p := Produced{Kind: a.Kind, Counters: a.Counters}
		if a.Kind != workload.KindGames {
			if p.Digest, err = w.store(ctx, a.Path); err != nil {
				o.Reason, o.Detail, o.Outputs = ReasonPublish, fmt.Sprintf("store %s: %v", a.Kind, err), nil
				return answer{Action: actFinish, Outcome: o}
			}
		}
		o.Outputs = append(o.Outputs, p)
	}
	w.avoid.ok(r.claim.Type)
	o.Result, o.Reason, o.Detail = Done, "", ""
	return answer{Action: actFinish, Outcome: o}
}

// store keeps an output, for which outputs of ended jobs may have to go.
func (w *Worker) store(ctx context.Context, path string) (d id.Digest, err error) {
	for {
		err = w.retry(ctx, func() (err error) {
			d, err = w.cfg.Artifacts.Store(ctx, path)
			return err
		})
		if !errors.Is(err, blob.ErrNoSpace) || !w.shed(w.spare(), 0) {
			return d, err
		}
	}
}

// belong asks of each output whether it answers this claim: good bytes of another game or about another model do not.
func (w *Worker) belong(ctx context.Context, r *run, found []proc.Artifact) error {
	if w.cfg.Belongs == nil {
		return nil
	}
	for _, a := range found {
		if err := w.cfg.Belongs(ctx, r.claim, a); err != nil {
			return fmt.Errorf("output %s (%s): %w", filepath.Base(a.Path), a.Kind, err)
		}
	}
	return nil
}

func owed(outputs []workload.Output) []proc.Output {
	list := make([]proc.Output, len(outputs))
	for i, o := range outputs {
		list[i] = proc.Output{Path: o.Path, Kind: o.Kind, Min: o.Min, Optional: o.Optional}
	}
	return list
}

// deliver writes the answer down and repeats it until the queue has heard it. It ends early with ctx; the next process
// goes on.
func (w *Worker) deliver(ctx context.Context, r *run, a answer) {
	w.setPhase(r, Finishing)
	onDisk := r.handle != nil
	if onDisk && !w.persist(ctx, r, a) {
		return
	}
	for pause := w.pace.Retry; a.Action != actNothing; pause = min(2*pause, w.pace.RetryMost) {
		err := w.tell(ctx, r, a)
		if err == nil {
			break
		}
		if errors.Is(err, ErrConflict) {
			a.Stale = true
			w.log.Warn().Str("job", r.job).Msg("result came too late and changes nothing")
			break
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, ErrRefused) && a.Outcome.Result == Done {
			// Said again it would be refused again, and the item would stay running for as long as this node beats for it.
			w.log.Warn().Str("job", r.job).Err(err).Msg("success refused")
			w.avoid.strike(r.claim.Type, ReasonRefused)
			a.Outcome.Result, a.Outcome.Reason, a.Outcome.Detail, a.Outcome.Outputs = Failed, ReasonRefused, err.Error(), nil
			if onDisk && !w.persist(ctx, r, a) {
				return
			}
			continue
		}
		w.log.Debug().Str("job", r.job).Err(err).Msg("answer not heard")
		select {
		case <-ctx.Done():
			return
		case <-time.After(jittered(pause)):
		}
	}
	a.Heard = time.Now()
	if onDisk && !w.persist(ctx, r, a) {
		return
	}
	w.done(r, a)
}

// tell says the answer to the queue once. A command that ended before its start was heard is told of first: a failure that
// is quicker than the word of its start would otherwise never count as an attempt.
func (w *Worker) tell(ctx context.Context, r *run, a answer) error {
	ctx, cancel := context.WithTimeout(ctx, w.pace.Call)
	defer cancel()
	ref := r.claim.ClaimRef
	if a.Action == actRelease {
		return w.cfg.Queue.Release(ctx, ref, a.Why)
	}
	if a.Outcome.Started && !r.told.Load() {
		if err := w.cfg.Queue.Started(ctx, ref); err != nil && !errors.Is(err, ErrConflict) {
			return err
		}
		r.told.Store(true)
	}
	return w.cfg.Queue.Finish(ctx, r.claim, a.Outcome)
}

// persist writes the answer, waiting for the disk if need be; false means that ctx ended first. A job whose directory somebody
// took away has no place for it, and needs none: no later process will find the job.
func (w *Worker) persist(ctx context.Context, r *run, a answer) bool {
	for pause := w.pace.Retry; ; pause = min(2*pause, w.pace.RetryMost) {
		err := writeAnswer(r.handle.Dir(), a)
		if err == nil || errors.Is(err, fs.ErrNotExist) && missing(r.handle.Dir()) {
			return true
		}
		w.log.Error().Str("job", r.job).Err(err).Msg("outcome cannot be written")
		select {
		case <-ctx.Done():
			return false
		case <-time.After(jittered(pause)):
		}
	}
}

func missing(dir string) bool {
	_, err := os.Lstat(dir)
	return errors.Is(err, fs.ErrNotExist)
}
