package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/workload"
)

const (
	play = `echo g1 > games.db; echo g2 >> games.db`
	// hold plays one game and stays until it is let go.
	hold = `echo run >> count; echo g1 > games.db; while ! [ -e go ]; do sleep 0.01; done`
)

func TestWholeLoop(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{
		workload.Selfplay: play,
		workload.Export:   `cat "$2" "$2" > /dev/null; (cat "$2"; echo; echo s2) > data.npz`,
		workload.Train:    `(cat "$2"; echo trained) > model.bin`,
		workload.Evaluate: `(cat "$2"; echo m1) > matches.json`,
	})
	old := b.store.add(t, "old model\n")
	candidate := b.store.add(t, "candidate\n")
	pack := b.store.add(t, "pack")
	train, export, evaluate := claim(2, workload.Train), claim(3, workload.Export), claim(4, workload.Evaluate)
	train.Inputs = map[string]id.Digest{"model": old}
	export.Packs = []id.Digest{pack}
	evaluate.Inputs = map[string]id.Digest{"model": old, "candidate": candidate}
	b.queue.pending = []Claim{claim(1, workload.Selfplay), train, export, evaluate}
	w, _ := b.run()

	for i := 1; i <= 4; i++ {
		o := b.outcome(fmt.Sprintf("c%d", i))
		if o.Result != Done || !o.Started || o.Reason != "" || len(o.Outputs) != 1 {
			t.Errorf("claim %d: %+v", i, o)
		}
	}
	b.idle(w)
	if got := b.outcome("c1").Outputs[0]; got.Digest != "" || got.Counters["games"] != 2 {
		t.Errorf("games: %+v", got)
	}
	if got, want := b.outcome("c2").Outputs[0].Digest, id.DigestOf([]byte("old model\ntrained\n")); got != want {
		t.Errorf("model %s, want %s", got, want)
	}
	if got, want := b.outcome("c4").Outputs[0].Digest, id.DigestOf([]byte("candidate\nm1\n")); got != want {
		t.Errorf("the candidate is what an evaluation measures: %s, want %s", got, want)
	}
	dbs, _ := w.JobDatabases()
	if len(dbs) != 1 || dbs[0].WorkID != "w1" || !dbs[0].Done || dbs[0].Stale {
		t.Fatalf("databases: %+v", dbs)
	}
	if err := w.Release(dbs[0].JobID); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(filepath.Dir(dbs[0].Path))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("released job is still there: %v", err)
	}
	if err := w.Release(dbs[0].JobID); !errors.Is(err, ErrUnknownJob) {
		t.Errorf("second release: %v", err)
	}
}

func TestLies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		result Result
		reason string
		detail string
	}{
		"exit 0 without output": {`true`, Failed, ReasonOutputs, "does not exist"},
		"zero games":            {`: > games.db`, Failed, ReasonOutputs, "holds too little"},
		"garbage":               {`echo garbage > games.db`, Failed, ReasonOutputs, "not a database"},
		"old file":              {`echo g > games.db; touch -d 2001-01-01 games.db`, Failed, ReasonOutputs, "older than the run"},
		"link to elsewhere":     {`ln -s /etc/passwd games.db`, Failed, ReasonOutputs, "not a regular file"},
		"claims a hundred":      {`echo games=100 100%`, Failed, ReasonOutputs, "does not exist"},
		"fails with games":      {play + `; echo "out of luck" >&2; exit 3`, Failed, ReasonExitCode, "exit code 3: out of luck"},
		"killed":                {play + `; kill -9 $$`, Failed, string(proc.Signaled), "SIGKILL"},
		"wrong arguments":       {`echo "unknown flag" >&2; exit 2`, Refused, ReasonTemplate, "unknown flag"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, map[string]string{workload.Selfplay: c.script}, claim(1, workload.Selfplay))
			w, _ := b.run()
			o := b.outcome("c1")
			if o.Result != c.result || o.Reason != c.reason || !strings.Contains(o.Detail, c.detail) || !o.Started {
				t.Errorf("got %+v", o)
			}
			b.idle(w)
			b.queue.with(func() { // however quick it was
				if !slices.Contains(b.queue.started, "c1") {
					t.Error("the attempt was not counted")
				}
			})
			why, listed := w.Snapshot().Stages[workload.Selfplay]
			if want := c.result == Refused; !listed || (why != "") != want {
				t.Errorf("avoided: %q, %v", why, listed)
			}
		})
	}
}

// Who mends the workload need not wait until the node asks again by itself, which is an hour here.
func TestNewWorkloadIsTriedAtOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Selfplay: `exit 2`}, claim(1, workload.Selfplay))
	bad := b.cfg.Workload()
	good := *bad
	good.Stages = newBench(t, map[string]string{workload.Selfplay: play}).cfg.Workload().Stages
	var now atomic.Pointer[workload.Workload]
	now.Store(bad)
	b.cfg.Workload = now.Load
	w, _ := b.run()
	if o := b.outcome("c1"); o.Reason != ReasonTemplate {
		t.Fatalf("got %+v", o)
	}
	b.idle(w)
	if o, ok := w.offer(); ok {
		t.Errorf("what fails is asked for: %v", o.Types)
	}
	now.Store(&good)
	b.queue.with(func() { b.queue.pending = append(b.queue.pending, claim(2, workload.Selfplay)) })
	if o := b.outcome("c2"); o.Result != Done {
		t.Errorf("got %+v", o)
	}
	b.idle(w)
}

func TestGoodOutputOfAnotherClaimIsRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Selfplay: play}, claim(1, workload.Selfplay))
	b.cfg.Belongs = func(_ context.Context, c Claim, out proc.Artifact) error {
		return fmt.Errorf("%s is no answer to %s", out.Kind, c.ClaimID)
	}
	w, _ := b.run()
	o := b.outcome("c1")
	if o.Result != Failed || o.Reason != ReasonOutputs || o.Detail != "output games.db (games): games is no answer to c1" {
		t.Errorf("got %+v", o)
	}
	b.idle(w)
}

func TestTimeoutEndsRun(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Selfplay: `trap "" TERM; sleep 60`}, claim(1, workload.Selfplay))
	stage := b.cfg.Workload().Stages[workload.Selfplay]
	stage.Timeout, stage.Grace = 200*time.Millisecond, 50*time.Millisecond
	b.cfg.Workload().Stages[workload.Selfplay] = stage
	w, _ := b.run()
	if o := b.outcome("c1"); o.Result != Failed || o.Reason != string(proc.TimedOut) {
		t.Errorf("got %+v", o)
	}
	b.idle(w)
}

// What cannot run here goes back with its reason, no attempt is counted, and the type is not asked for again.
func TestCannotRunHere(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil  func(*bench)
		reason string
	}{
		"program missing": {func(b *bench) {
			b.edit(func(s *workload.Stage) { s.Argv = []string{"no-such-program"} })
		}, "not_found: no program"},
		"not executable": {func(b *bench) {
			b.edit(func(s *workload.Stage) { s.Argv = []string{"/etc"} })
		}, "not_executable"},
		"bad value": {func(b *bench) {
			b.edit(func(s *workload.Stage) { s.Argv = []string{"true", "{opponents}"} })
			b.queue.pending[0].Params = map[string]string{"opponents": "--evil"}
			b.queue.pending[1].Params = b.queue.pending[0].Params
		}, ReasonRender},
		"jobs directory full": {func(b *bench) {
			b.cfg.Runner.Shim = []string{"/no/such/shim"}
		}, "not_started"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, map[string]string{workload.Selfplay: play, workload.Train: "echo m > model.bin"},
				claim(1, workload.Selfplay), claim(2, workload.Selfplay), claim(3, workload.Train))
			c.spoil(b)
			b.cfg.Slots.CPU = 1
			w, _ := b.run()
			if reason := b.release("c1"); !strings.Contains(reason, c.reason) {
				t.Errorf("reason %q", reason)
			}
			if name != "jobs directory full" {
				if o := b.outcome("c3"); o.Result != Done {
					t.Errorf("the other type: %+v", o)
				}
			}
			b.idle(w)
			b.queue.with(func() {
				if len(b.queue.pending) == 0 || b.queue.pending[0].ClaimID != "c2" {
					t.Errorf("the second item was claimed all the same: %+v", b.queue.pending)
				}
				for _, s := range b.queue.started {
					if s == "c1" {
						t.Error("an attempt was counted")
					}
				}
			})
		})
	}
}

// edit changes the self-play stage before the worker runs.
func (b *bench) edit(change func(*workload.Stage)) {
	stage := b.cfg.Workload().Stages[workload.Selfplay]
	change(&stage)
	b.cfg.Workload().Stages[workload.Selfplay] = stage
}

func TestClaimsThatCannotBeKept(t *testing.T) {
	t.Parallel()
	missing := claim(1, workload.Train)
	missing.Inputs = map[string]id.Digest{"model": id.DigestOf([]byte("nowhere"))}
	other := claim(2, workload.Selfplay)
	other.Config = "hex8_2p"
	b := newBench(t, map[string]string{workload.Selfplay: play, workload.Train: "true"}, missing, other)
	w, _ := b.run()
	if reason := b.release("c1"); !strings.HasPrefix(reason, ReasonInputs+": fetch model") {
		t.Errorf("reason %q", reason)
	}
	if reason := b.release("c2"); reason != ReasonStage {
		t.Errorf("reason %q", reason)
	}
	b.idle(w)
}

func TestRefusedHeartbeatEndsRun(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Selfplay: hold}, claim(1, workload.Selfplay))
	w, _ := b.run()
	b.eventually("beats while running", func() bool {
		list := b.queue.beats["c1"]
		return len(list) > 1 && list[len(list)-1].Phase == Running
	})
	b.queue.with(func() { b.queue.revoked["c1"] = true })
	b.idle(w)
	b.queue.with(func() {
		if len(b.queue.finished) > 0 || len(b.queue.released) > 0 {
			t.Errorf("a lost claim was answered: %+v", b.queue)
		}
	})
	dbs, _ := w.JobDatabases()
	if len(dbs) != 1 || !dbs[0].Stale || !dbs[0].Done {
		t.Errorf("its bytes are kept: %+v", dbs)
	}
}

func TestLateResultIsFinal(t *testing.T) {
	t.Parallel()
	late := claim(1, workload.Selfplay)
	late.Lease = time.Hour // so that no heartbeat tells before the answer does
	b := newBench(t, map[string]string{workload.Selfplay: hold}, late)
	w, _ := b.run()
	b.eventually("started", func() bool { return len(b.queue.started) == 1 })
	b.queue.with(func() { b.queue.revoked["c1"] = true })
	b.letGo("w1.c1")
	b.idle(w)
	a, told, err := readAnswer(filepath.Join(b.cfg.Runner.Dir, "w1.c1"))
	if err != nil || !told || !a.Stale || a.Heard.IsZero() {
		t.Errorf("answer %+v, %v, %v", a, told, err)
	}
	if len(b.queue.finished) > 0 {
		t.Errorf("taken: %+v", b.queue.finished)
	}
}

// A success that the queue will never take ends as a failure, which it does: the item must not stay running for good.
func TestRefusedSuccessIsAFailure(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Selfplay: play}, claim(1, workload.Selfplay))
	b.queue.refuses = true
	w, _ := b.run()
	if o := b.outcome("c1"); o.Result != Failed || o.Reason != ReasonRefused || len(o.Outputs) != 0 || !strings.Contains(o.Detail, "needs games") {
		t.Errorf("told %+v", o)
	}
	b.idle(w)
	a, told, err := readAnswer(filepath.Join(b.cfg.Runner.Dir, "w1.c1"))
	if err != nil || !told || a.Outcome.Result != Failed || a.Heard.IsZero() {
		t.Errorf("answer %+v, %v, %v", a, told, err)
	}
}

func (b *bench) letGo(job string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.cfg.Runner.OutDir(job), "go"), nil, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

var errDisk = errors.New("deliberate: the disk does not take it")

// The coordinator is away from shortly after the claim until long after the end.
func TestWithoutCoordinator(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Selfplay: hold}, claim(1, workload.Selfplay))
	w, _ := b.run()
	b.eventually("started", func() bool { return len(b.queue.started) == 1 })
	b.queue.with(func() { b.queue.silent = true })
	if dbs, _ := w.JobDatabases(); len(dbs) > 0 && dbs[0].Done {
		t.Errorf("databases: %+v", dbs)
	}
	b.letGo("w1.c1")
	b.eventually("the outcome is on disk", func() bool {
		_, told, _ := readAnswer(filepath.Join(b.cfg.Runner.Dir, "w1.c1"))
		return told
	})
	if s := w.Snapshot(); s.Free != s.Total || len(s.Runs) != 1 || s.Runs[0].Phase != Finishing {
		t.Errorf("a waiting result holds slots: %+v", s)
	}
	w.sync = func(string) error { return errDisk }
	if err := w.Release("w1.c1"); !errors.Is(err, errDisk) {
		t.Errorf("released before the mark is on disk: %v", err)
	}
	w.sync = syncDir
	if err := w.Release("w1.c1"); err != nil {
		t.Errorf("release of a job that waits: %v", err)
	}
	if dbs, _ := w.JobDatabases(); len(dbs) > 0 {
		t.Errorf("released all the same listed: %+v", dbs)
	}
	b.queue.with(func() { b.queue.silent, b.queue.deafTo = false, 2 })
	b.idle(w)
	b.queue.with(func() {
		if list := b.queue.finished["c1"]; len(list) != 3 || list[0].Result != Done || cmp.Diff(list[0], list[2]) != "" {
			t.Errorf("repeated until heard, always the same: %+v", list)
		}
	})
}

func TestSlotsBoundRuns(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Selfplay: hold}, claim(1, workload.Selfplay), claim(2, workload.Selfplay), claim(3, workload.Selfplay))
	w, _ := b.run()
	b.eventually("two run", func() bool { return len(b.queue.started) == 2 })
	w.Nudge()
	if s := w.Snapshot(); len(s.Runs) != 2 || s.Free.CPU != 0 {
		t.Errorf("got %+v", s)
	}
	b.letGo("w1.c1")
	b.eventually("the third runs", func() bool { return len(b.queue.started) == 3 })
	b.letGo("w2.c2")
	b.letGo("w3.c3")
	b.idle(w)
}

// A node that claims short items all the time renews its long one all the same.
func TestBeatsUnderSteadyClaims(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Selfplay: hold, workload.Train: "echo m > model.bin"}, claim(0, workload.Selfplay))
	w, _ := b.run()
	b.eventually("the long one runs", func() bool { return len(b.queue.started) == 1 })
	next := 1
	b.eventually("six renewals amid other claims", func() bool {
		if len(b.queue.pending) == 0 {
			c := claim(next, workload.Train)
			c.Lease = time.Hour
			b.queue.pending = append(b.queue.pending, c)
			next++
		}
		signal(w.beat) // as every claim does, only more often
		return next > 4 && len(b.queue.beats["c0"]) >= 6
	})
	b.queue.with(func() { b.queue.pending = nil })
	b.letGo("w0.c0")
	b.idle(w)
}

func TestDrainAndLeave(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Selfplay: hold}, claim(1, workload.Selfplay))
	w, _ := b.run()
	b.eventually("started", func() bool { return len(b.queue.started) == 1 })
	w.Drain()
	b.queue.with(func() { b.queue.pending = append(b.queue.pending, claim(2, workload.Selfplay)) })
	w.Nudge()
	if err := w.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if reason := b.release("c1"); reason != ReasonLeaving {
		t.Errorf("reason %q", reason)
	}
	b.idle(w)
	if dbs, _ := w.JobDatabases(); len(dbs) != 1 || !dbs[0].Done {
		t.Errorf("its games are still to be gathered: %+v", dbs)
	}
	b.queue.with(func() {
		if len(b.queue.pending) != 1 {
			t.Error("claimed while draining")
		}
	})
	w.Resume()
	b.eventually("claims again", func() bool { return len(b.queue.pending) == 0 && len(b.queue.started) == 2 })
	b.letGo("w2.c2")
	b.idle(w)
}

func TestFullDiskClaimsNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Selfplay: play}, claim(1, workload.Selfplay))
	b.cfg.MinFreeMiB = 1 << 40
	w, _ := b.run()
	if _, ok := w.offer(); ok {
		t.Error("offered")
	}
	b.queue.with(func() {
		if len(b.queue.offers) > 0 {
			t.Errorf("asked for work: %+v", b.queue.offers)
		}
	})
}

// A node that is behind with its games makes no more of them, and goes on with everything else; afterwards it plays again.
func TestHeldNodeMakesNoGames(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{workload.Selfplay: play, workload.Train: "echo m > model.bin"},
		claim(1, workload.Selfplay), claim(2, workload.Train))
	w, err := New(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Hold(true)
	if o, ok := w.offer(); !ok || !slices.Equal(o.Types, []string{workload.Train}) {
		t.Errorf("offers %v (%v) while it is held", o.Types, ok)
	}
	w, _ = b.run()
	w.Hold(true)
	b.outcome("c2")
	w.Hold(false)
	b.outcome("c1")
}

func TestOldJobsGo(t *testing.T) {
	t.Parallel()
	var claims []Claim
	for i := range 6 {
		claims = append(claims, claim(i, workload.Train))
	}
	b := newBench(t, map[string]string{workload.Train: "echo m > model.bin"}, claims...)
	b.cfg.Pace.KeptJobs = 2
	w, _ := b.run()
	for i := range 6 {
		b.outcome(fmt.Sprintf("c%d", i))
	}
	b.idle(w)
	b.eventually("old jobs are removed", func() bool {
		entries, _ := os.ReadDir(b.cfg.Runner.Dir)
		return len(entries) == 2
	})
	entries, _ := os.ReadDir(b.cfg.Runner.Dir)
	for _, e := range entries {
		b.eventually("stored outputs are removed", func() bool {
			_, err := os.Stat(filepath.Join(b.cfg.Runner.Dir, e.Name(), "out"))
			return errors.Is(err, os.ErrNotExist)
		})
	}
}
