package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/workload"
)

// kept is a job whose claim is answered.
type kept struct {
	handle *proc.Handle
	rec    jobRecord
	answer answer
	// bytes is what its outputs took when it ended.
	bytes int64
}

// JobDB is a games database that a job writes or has written on this node.
type JobDB struct {
	JobID  string
	Path   string
	Config id.Config
	WorkID string
	// Done: the job has ended, nothing will be added.
	Done bool
	// Stale: the claim was lost. The games are real all the same; the item was given to somebody else.
	Stale bool
}

// JobDatabases lists the games databases of all jobs here, running and ended, that were not released, in the order of
// their job ids. They may be live: read them as one reads a database that somebody writes. It is false until the jobs of a
// former process have been taken over: there may be more.
func (w *Worker) JobDatabases() ([]JobDB, bool) {
	w.mu.Lock()
	known := w.adopted
	type source struct {
		handle *proc.Handle
		rec    jobRecord
		done   bool
		stale  bool
	}
	var sources []source
	for _, r := range w.runs {
		if r.handle == nil {
			continue
		}
		// The record in the handle counts: the workload may have changed since the start.
		rec, err := decodeRecord(r.handle)
		if err != nil {
			known = false
			continue
		}
		sources = append(sources, source{r.handle, rec, r.phase != Running, r.lost != ""})
	}
	for _, k := range w.kept {
		sources = append(sources, source{k.handle, k.rec, true, k.answer.Stale})
	}
	w.mu.Unlock()
	var list []JobDB
	for _, s := range sources {
		paths, all := databases(s.handle, s.rec)
		known = known && all
		for _, path := range paths {
			list = append(list, JobDB{
				JobID: s.handle.ID(), Path: path, Config: s.rec.Claim.Config, WorkID: s.rec.Claim.WorkID,
				Done: s.done, Stale: s.stale,
			})
		}
	}
	slices.SortFunc(list, func(a, b JobDB) int { return cmp.Or(cmp.Compare(a.JobID, b.JobID), cmp.Compare(a.Path, b.Path)) })
	return list, known
}

// databases are the games files of a job that exist and may still hold what is nowhere else; all is false where there may
// be more.
func databases(h *proc.Handle, rec jobRecord) (paths []string, all bool) {
	if _, err := os.Stat(filepath.Join(h.Dir(), releasedName)); err == nil {
		return nil, true
	}
	all = true
	for _, o := range rec.Outputs {
		path := filepath.Join(h.OutDir(), o.Path)
		if o.Kind != workload.KindGames {
			continue
		}
		info, err := os.Lstat(path)
		switch {
		case err == nil && info.Mode().IsRegular():
			paths = append(paths, path)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			all = false
		}
	}
	return paths, all
}

// empty says that a job has surely left no games that may be nowhere else.
func empty(h *proc.Handle, rec jobRecord) bool {
	paths, all := databases(h, rec)
	return all && len(paths) == 0
}

// Release says that the games of a job that has ended are safe elsewhere. Its directory goes at once if its claim is
// answered; if not, it becomes an ended job like any other when it is. Errors: ErrUnknownJob; proc.ErrRunning while the job still runs.
func (w *Worker) Release(job string) error {
	w.mu.Lock()
	r, k := w.runs[job], w.kept[job]
	busy := r != nil && (r.handle == nil || r.phase == Running)
	w.mu.Unlock()
	switch {
	case busy:
		return fmt.Errorf("release job %s: %w", job, proc.ErrRunning)
	case r != nil:
		// Who releases forgets what was in the job at once: after a power cut it must not be there again.
		if err := w.mark(r.handle.Dir(), releasedName); err != nil {
			return fmt.Errorf("release job %s: %w", job, err)
		}
		return nil
	case k != nil:
		return w.remove(job)
	}
	return fmt.Errorf("release job %s: %w", job, ErrUnknownJob)
}

func (w *Worker) remove(job string) error {
	if err := w.cfg.Runner.Remove(job); err != nil && !errors.Is(err, proc.ErrUnknown) {
		return fmt.Errorf("release job: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.kept, job)
	return nil
}

// done ends a run whose answer was heard.
func (w *Worker) done(r *run, a answer) {
	w.ledger.Release(r.job) // a refused claim may still hold something; everybody else holds nothing by now
	var rec jobRecord
	var bytes int64
	if r.handle != nil {
		rec, _ = decodeRecord(r.handle)
		bytes = proc.UsedBytes(r.handle.OutDir())
	}
	w.mu.Lock()
	delete(w.runs, r.job)
	if r.handle != nil {
		w.kept[r.job] = &kept{handle: r.handle, rec: rec, answer: a, bytes: bytes}
	}
	close(w.changed)
	w.changed = make(chan struct{})
	w.mu.Unlock()
	w.Nudge()
	if r.handle != nil {
		w.tidy(r.job)
	}
}

// tidy frees the disk of what is stored or safe elsewhere, and of old remains.
func (w *Worker) tidy(job string) {
	spare := w.spare()
	w.mu.Lock()
	k := w.kept[job]
	w.mu.Unlock()
	if k != nil && k.answer.Outcome.Result == Done && !k.answer.Stale && empty(k.handle, k.rec) {
		w.drop(k) // The outputs are in the store. Log and status stay for inspection.
	}
	for _, k := range spare[min(len(spare), w.pace.KeptJobs):] {
		if err := w.remove(k.handle.ID()); err != nil {
			w.log.Warn().Str("job", k.handle.ID()).Err(err).Msg("old job not removed")
		}
	}
	w.shed(spare[min(len(spare), 1):], w.pace.KeptBytes)
}

// spare are the answered jobs whose outputs nobody needs, the newest first.
func (w *Worker) spare() []*kept {
	w.mu.Lock()
	defer w.mu.Unlock()
	var spare []*kept
	for _, k := range w.kept {
		if empty(k.handle, k.rec) {
			spare = append(spare, k)
		}
	}
	slices.SortFunc(spare, func(a, b *kept) int { return b.answer.Heard.Compare(a.answer.Heard) })
	return spare
}

// unwritten is how many MiB those that hold slots may still write, by what they asked for.
func (w *Worker) unwritten() int64 {
	sum := int64(0)
	for job, mib := range w.ledger.disk() {
		w.mu.Lock()
		var h *proc.Handle
		if r := w.runs[job]; r != nil {
			h = r.handle
		}
		w.mu.Unlock()
		if h != nil {
			mib -= proc.UsedBytes(h.OutDir()) >> 20
		}
		sum += max(0, mib)
	}
	return sum
}

// keptMiB is what the outputs of spare jobs take, rounded up.
func (w *Worker) keptMiB() int64 {
	spare := w.spare()
	w.mu.Lock()
	defer w.mu.Unlock()
	sum := int64(0)
	for _, k := range spare {
		sum += k.bytes
	}
	return (sum + 1<<20 - 1) >> 20
}

// shed removes outputs of spare jobs, ordered from the newest, until the others take no more than most bytes; it says whether it
// removed any.
func (w *Worker) shed(spare []*kept, most int64) (did bool) {
	for _, k := range spare {
		w.mu.Lock()
		bytes := k.bytes
		w.mu.Unlock()
		if bytes > most {
			did = w.drop(k) || did
			continue
		}
		most -= bytes
	}
	return did
}

// drop removes a job's outputs; its log and status stay.
func (w *Worker) drop(k *kept) bool {
	if err := proc.RemoveAll(k.handle.OutDir()); err != nil {
		w.log.Warn().Str("job", k.handle.ID()).Err(err).Msg("outputs not removed")
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	k.bytes = 0
	return true
}

func decodeRecord(h *proc.Handle) (jobRecord, error) {
	var rec jobRecord
	if err := json.Unmarshal(h.Record(), &rec); err != nil {
		return rec, fmt.Errorf("decode record of job %s: %w", h.ID(), err)
	}
	return rec, nil
}

// adopt takes over the jobs of a former agent process, each where it stands.
func (w *Worker) adopt(ctx context.Context) error {
	handles, err := w.cfg.Runner.Adopt(ctx)
	if err != nil {
		return fmt.Errorf("adopt jobs: %w", err)
	}
	if err := os.MkdirAll(w.cfg.Runner.Dir, 0o700); err != nil {
		return fmt.Errorf("make job directory: %w", err)
	}
	for _, h := range handles {
		rec, err := decodeRecord(h)
		if err != nil || rec.Claim.ClaimID == "" {
			w.log.Error().Str("job", h.ID()).Err(err).Msg("job of unknown origin is left alone")
			continue
		}
		a, told, err := readAnswer(h.Dir())
		if err != nil {
			w.log.Error().Str("job", h.ID()).Err(err).Msg("outcome not readable, judged again")
		}
		if told {
			// An answer counts only when the job has ended. A command could write one too.
			if _, ended, _ := h.Poll(); !ended {
				told = false
			}
		}
		if told && !a.Heard.IsZero() {
			bytes := proc.UsedBytes(h.OutDir())
			w.mu.Lock()
			w.kept[h.ID()] = &kept{handle: h, rec: rec, answer: a, bytes: bytes}
			w.mu.Unlock()
			continue
		}
		w.resume(ctx, h, rec, a, told)
	}
	return nil
}

// resume goes on with a claim that has a job but no answer that was heard.
func (w *Worker) resume(ctx context.Context, h *proc.Handle, rec jobRecord, a answer, told bool) {
	r := &run{claim: rec.Claim, job: h.ID(), grace: rec.Grace, phase: Running, handle: h, stop: func(error) {}}
	if r.claim.Lease <= 0 {
		r.claim.Lease = defaultLease
	}
	if told {
		r.phase = Finishing
	} else {
		w.ledger.Adopt(h.ID(), rec.Grant)
	}
	w.mu.Lock()
	w.runs[r.job] = r
	w.mu.Unlock()
	w.log.Info().Str("job", r.job).Bool("ended", told).Msg("job adopted")
	w.group.Go(func() {
		if told {
			w.deliver(ctx, r, a)
			return
		}
		w.follow(ctx, r, rec)
	})
}

// spareDisk is how many MiB jobs may still write; a disk that cannot be asked has none.
func (w *Worker) spareDisk() int64 {
	free, err := w.space(w.cfg.Runner.Dir)
	if errors.Is(err, fs.ErrNotExist) && os.Mkdir(w.cfg.Runner.Dir, 0o700) == nil {
		free, err = w.space(w.cfg.Runner.Dir) // somebody took away more than the jobs in it
	}
	if err != nil {
		return 0
	}
	return free>>20 - w.cfg.MinFreeMiB
}
