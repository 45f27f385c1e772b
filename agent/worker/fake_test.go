package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/workload"
)

// The test binary is also the shim.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "job-shim" {
		os.Exit(proc.ShimMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

var errSilence = errors.New("no coordinator")

// fakeQueue behaves like the real one: one live claim per item, answers checked against the claim.
type fakeQueue struct {
	mu       sync.Mutex
	pending  []Claim
	granted  map[string]Claim // by claim id
	revoked  map[string]bool
	silent   bool
	started  []string
	finished map[string][]Outcome
	released map[string][]string
	beats    map[string][]Beat
	offers   []Offer
	refuses  bool // every success
	deafTo   int  // so many answers are taken, but their acknowledgement is lost
}

func newQueue(claims ...Claim) *fakeQueue {
	return &fakeQueue{
		pending: claims, granted: map[string]Claim{}, revoked: map[string]bool{}, finished: map[string][]Outcome{},
		released: map[string][]string{}, beats: map[string][]Beat{},
	}
}

func (q *fakeQueue) with(do func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	do()
}

func (q *fakeQueue) Claim(_ context.Context, o Offer) (Claim, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.silent {
		return Claim{}, false, errSilence
	}
	q.offers = append(q.offers, o)
	for i, c := range q.pending {
		for _, typ := range o.Types {
			if typ == c.Type {
				q.pending = append(q.pending[:i:i], q.pending[i+1:]...)
				q.granted[c.ClaimID] = c
				return c, true, nil
			}
		}
	}
	return Claim{}, false, nil
}

func (q *fakeQueue) Started(_ context.Context, ref ClaimRef) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.silent {
		return errSilence
	}
	q.started = append(q.started, ref.ClaimID)
	return nil
}

func (q *fakeQueue) Heartbeat(_ context.Context, beats []Beat) ([]Verdict, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.silent {
		return nil, errSilence
	}
	var vs []Verdict
	for _, b := range beats {
		q.beats[b.ClaimID] = append(q.beats[b.ClaimID], b)
		vs = append(vs, Verdict{ClaimID: b.ClaimID, OK: !q.revoked[b.ClaimID], Reason: "cancelled"})
	}
	return vs, nil
}

func (q *fakeQueue) answer(ref ClaimRef, take func()) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.silent {
		return errSilence
	}
	if q.revoked[ref.ClaimID] {
		return fmt.Errorf("answer %s: %w", ref.ClaimID, ErrConflict)
	}
	take()
	if q.deafTo > 0 {
		q.deafTo--
		return errSilence
	}
	return nil
}

func (q *fakeQueue) Finish(_ context.Context, c Claim, o Outcome) error {
	ref := c.ClaimRef
	if q.refuses && o.Result == Done {
		return fmt.Errorf("%w: a finished selfplay needs games above zero", ErrRefused)
	}
	return q.answer(ref, func() { q.finished[ref.ClaimID] = append(q.finished[ref.ClaimID], o) })
}

func (q *fakeQueue) Release(_ context.Context, ref ClaimRef, reason string) error {
	return q.answer(ref, func() { q.released[ref.ClaimID] = append(q.released[ref.ClaimID], reason) })
}

// fakeStore holds stored files by digest, in a directory.
type fakeStore struct {
	dir  string
	mu   sync.Mutex
	kept int // how often a file was stored
	fail error
	// failing is asked for each file; nil: nothing fails.
	failing func() error
}

func (s *fakeStore) Ensure(_ context.Context, d id.Digest) (string, error) {
	path := filepath.Join(s.dir, string(d))
	_, err := os.Stat(path)
	return path, err
}

func (s *fakeStore) Store(_ context.Context, path string) (id.Digest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return "", s.fail
	}
	if s.failing != nil {
		if err := s.failing(); err != nil {
			return "", err
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	s.kept++
	d := id.DigestOf(data)
	return d, os.WriteFile(filepath.Join(s.dir, string(d)), data, 0o600)
}

func (s *fakeStore) add(t *testing.T, text string) id.Digest {
	t.Helper()
	d := id.DigestOf([]byte(text))
	if err := os.WriteFile(filepath.Join(s.dir, string(d)), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

func (s *fakeStore) Merged(_ context.Context, c id.Config, packs []id.Digest) (string, error) {
	path := filepath.Join(s.dir, string(c)+".db")
	return path, os.WriteFile(path, []byte(fmt.Sprint(len(packs))), 0o600)
}

// lineCounter counts lines, as a stand-in for reading a database.
func lineCounter(name string) proc.Validator {
	return func(_ context.Context, path string) (map[string]int64, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if strings.Contains(string(data), "garbage") {
			return nil, errors.New("not a database")
		}
		return map[string]int64{name: int64(strings.Count(string(data), "\n"))}, nil
	}
}

// bench is one node with everything around it.
type bench struct {
	t     *testing.T
	cfg   Config
	queue *fakeQueue
	store *fakeStore
	log   *logTo
}

// logTo lets goroutines of a run log until the test is over, and not after.
type logTo struct {
	mu   sync.Mutex
	t    *testing.T
	over bool
}

func (l *logTo) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// command is a stage that runs sh with this script; outputs follow the type.
func command(script string) workload.Stage {
	return workload.Stage{
		Argv: []string{"sh", "-c", script, "sh", "{out}", "{model}", "{games}"}, Needs: workload.Slots{CPU: 1},
		Timeout: 20 * time.Second, Grace: 200 * time.Millisecond,
	}
}

func newBench(t *testing.T, scripts map[string]string, claims ...Claim) *bench {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	wl := &workload.Workload{Version: 1, Name: "test", Configs: []id.Config{"connect4_2p"}, Stages: map[string]workload.Stage{}}
	outputs := map[string]workload.Output{
		workload.Selfplay: {Path: "games.db", Kind: workload.KindGames, Min: map[string]int64{"games": 1}},
		workload.Export:   {Path: "data.npz", Kind: workload.KindDataset, Min: map[string]int64{"samples": 1}},
		workload.Train:    {Path: "model.bin", Kind: workload.KindModel, Min: map[string]int64{"bytes": 1}},
		workload.Evaluate: {Path: "matches.json", Kind: workload.KindMatches, Min: map[string]int64{"games": 1}},
	}
	for name, script := range scripts {
		stage := command(script)
		stage.Outputs = []workload.Output{outputs[name]}
		wl.Stages[name] = stage
	}
	log := &logTo{t: t}
	store := &fakeStore{dir: t.TempDir()}
	queue := newQueue(claims...)
	b := &bench{t: t, queue: queue, store: store, log: log, cfg: Config{
		Node: id.NewNode(), Boot: id.NewBoot(), Self: self, Slots: workload.Slots{CPU: 2, RAMMiB: 100, DiskMiB: 100},
		Runner: &proc.Runner{Dir: filepath.Join(t.TempDir(), "jobs"), Shim: []string{self, "job-shim"}},
		Queue:  queue, Artifacts: store, Games: store, Log: zerolog.New(log),
		Validators: map[string]proc.Validator{
			workload.KindGames: lineCounter("games"), workload.KindDataset: lineCounter("samples"),
			workload.KindModel: lineCounter("lines"), workload.KindMatches: lineCounter("games"),
		},
		Workload: func() *workload.Workload { return wl },
		Pace: Pace{
			Poll: 5 * time.Millisecond, PollMost: 20 * time.Millisecond, Retry: 5 * time.Millisecond, RetryMost: 20 * time.Millisecond,
			Avoid: time.Hour, AvoidMost: time.Hour, Tries: 2,
		},
	}}
	t.Cleanup(func() {
		b.endJobs()
		log.mu.Lock()
		log.over = true
		log.mu.Unlock()
	})
	return b
}

// endJobs ends whatever commands a test left running on purpose.
func (b *bench) endJobs() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	handles, err := b.cfg.Runner.Adopt(ctx)
	if err != nil {
		b.t.Error(err)
	}
	for _, h := range handles {
		_ = h.Stop(0, "test is over")
		if _, err := h.Wait(ctx); err != nil {
			b.t.Error(err)
		}
	}
}

// run starts an agent's worker; stop ends it as SIGTERM would.
func (b *bench) run() (w *Worker, stop func()) {
	b.t.Helper()
	w, err := New(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				b.t.Error(err)
			}
		})
	}
	b.t.Cleanup(stop)
	return w, stop
}

func (b *bench) eventually(what string, ok func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; <-time.After(3 * time.Millisecond) {
		b.queue.mu.Lock()
		done := ok()
		b.queue.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("never happened: %s", what)
		}
	}
}

// outcome waits for the answer to a claim.
func (b *bench) outcome(claim string) Outcome {
	b.t.Helper()
	var o Outcome
	b.eventually("outcome of "+claim, func() bool {
		if list := b.queue.finished[claim]; len(list) > 0 {
			o = list[0]
			return true
		}
		return false
	})
	return o
}

func (b *bench) release(claim string) string {
	b.t.Helper()
	var reason string
	b.eventually("release of "+claim, func() bool {
		if list := b.queue.released[claim]; len(list) > 0 {
			reason = list[0]
			return true
		}
		return false
	})
	return reason
}

// idle proves that nothing is held any more.
func (b *bench) idle(w *Worker) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 60*time.Second)
	defer cancel()
	if err := w.Idle(ctx); err != nil {
		b.t.Fatal(err)
	}
	if s := w.Snapshot(); s.Free != s.Total {
		b.t.Errorf("slots are not free: %+v", s)
	}
}

func claim(n int, typ string) Claim {
	return Claim{
		ClaimRef: ClaimRef{WorkID: fmt.Sprintf("w%d", n), ClaimID: fmt.Sprintf("c%d", n)}, Type: typ, Config: "connect4_2p",
		Lease: 300 * time.Millisecond, Attempt: 1,
	}
}
