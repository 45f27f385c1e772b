package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/httpd"
	"github.com/ringagent/ringagent/agent/supervise"
	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/pace"
)

// external lets other processes of this host publish and consume: by the socket, or by files in spool/ that were left while
// the agent was down. It is the part behind CROSS_PROCESS_POLLER.
type external struct {
	a       *Agent
	cursors shelf
	running atomic.Bool

	mu     sync.Mutex    // held while a cursor moves
	turned chan struct{} // closed when other events than those that were streamed stand in the log
}

const (
	spoolEvery = time.Second
	maxSpool   = 128 << 10 // bytes of one spool file
)

// Run implements kit.Daemon: it empties the spool until ctx ends; meanwhile the socket's clients are served.
func (x *external) Run(ctx context.Context) error {
	x.running.Store(true)
	defer x.running.Store(false)
	for {
		if err := x.sweep(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		if !pause(ctx, pace.Until(spoolEvery)) {
			return nil
		}
	}
}

// spooled is one file of the spool: an event that somebody stated while nobody answered.
type spooled struct {
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload"`
	Key     string          `json:"key"`
	Cause   string          `json:"cause"`
}

// sweep publishes every file of the spool once. The file's name and content are the key, so that a crash between publishing
// and removing states nothing twice. A file that is no event, or that cannot be taken, goes to quarantine with the reason: no
// one file may keep the others waiting.
func (x *external) sweep(ctx context.Context) error {
	dir := x.a.dir.path("spool")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read spool: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") || !e.Type().IsRegular() {
			continue // being written under another name, or no file
		}
		path := filepath.Join(dir, e.Name())
		if err := x.publishFile(ctx, path, e.Name()); err != nil {
			reason, hopeless := fault(err)
			if !hopeless {
				return err // the disk, or the end: the file stays
			}
			if qerr := x.a.store.blobs.QuarantineFile(path, reason); qerr != nil && !errors.Is(qerr, fs.ErrPermission) {
				return qerr
			}
			x.a.log.Warn().Str("file", e.Name()).Str("reason", reason).Msg("spooled event refused")
			continue
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("clear spool: %w", err)
		}
	}
	return nil
}

// fault says why a spooled file will never be published; false for what may pass.
func fault(err error) (reason string, hopeless bool) {
	var bad *api.Error
	switch {
	case errors.As(err, &bad):
		switch bad.Code {
		case api.CodeInvalid, api.CodeRefused, api.CodeConflict:
			return bad.Message, true
		}
	case errors.Is(err, fs.ErrPermission):
		return err.Error(), true
	}
	return "", false
}

func (x *external) publishFile(ctx context.Context, path, name string) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read spool: %w", err)
	}
	if st.Size() > maxSpool {
		return api.Errorf(api.CodeInvalid, "spool file of %d bytes, more than %d", st.Size(), maxSpool)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read spool: %w", err)
	}
	var in spooled
	if err := json.Unmarshal(b, &in); err != nil {
		return api.Errorf(api.CodeInvalid, "spool file is no event: %v", err)
	}
	if in.Key == "" {
		in.Key = "spool/" + name + "/" + string(id.DigestOf(b))
	}
	_, err = x.state(ctx, api.Publish{Type: in.Type, Payload: in.Payload, Key: in.Key, Cause: in.Cause})
	return err
}

// publish states an event for a client.
func (x *external) publish(ctx context.Context, in api.Publish) (api.Published, error) {
	if err := x.ready(ctx); err != nil {
		return api.Published{}, err
	}
	return x.state(ctx, in)
}

// pollerWait is how long who asks a young agent waits for the poller.
const pollerWait = 5 * time.Second

// ready waits for the poller where it is about to run: whoever asks an agent that has just started need not know that its
// daemons come after its API. What was stopped, or gave up, is not waited for.
func (x *external) ready(ctx context.Context) error {
	late := time.NewTimer(pollerWait)
	defer late.Stop()
	for !x.running.Load() {
		changed := x.a.supervisor.Changed()
		switch st, ok := x.a.supervisor.State("CROSS_PROCESS_POLLER"); {
		case !ok, st == supervise.Stopped, st == supervise.Failed:
			return errPoller()
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Millisecond): // it is RUNNING a moment before it says so here
		case <-late.C:
			return api.Errorf(api.CodeBusy, "CROSS_PROCESS_POLLER does not run yet").WithHint("try again; ringagent daemon explain CROSS_PROCESS_POLLER says what it waits for")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func errPoller() *api.Error {
	return api.Errorf(api.CodeRefused, "CROSS_PROCESS_POLLER does not run on this node").
		WithHint("start it with: ringagent daemon start CROSS_PROCESS_POLLER; or leave the event as a file in the data dir's spool/")
}

func (x *external) state(ctx context.Context, in api.Publish) (api.Published, error) {
	t, ok := event.Catalogue().Canonical(in.Type)
	if !ok {
		return api.Published{}, api.Errorf(api.CodeInvalid, "type: no event type %q", in.Type).WithHint("list them with: ringagent events types")
	}
	d := event.Draft{Type: t, Node: x.a.node.ID, Time: time.Now().UTC(), Cause: in.Cause, Payload: in.Payload}
	p := eventlog.PublishOptions{By: event.ByExternal, Key: in.Key}
	if !in.Wait {
		id, err := x.a.outbox.Publish(ctx, d, p)
		return api.Published{ID: id}, publishError(err)
	}
	id, seq, err := x.a.outbox.PublishWait(ctx, d, p)
	if err != nil && id != "" {
		return api.Published{}, api.Errorf(api.CodeTimeout, "accepted here as %s, but it has no place in the log yet", id)
	}
	return api.Published{ID: id, Seq: &seq}, publishError(err)
}

func publishError(err error) error {
	var problem *event.ProblemError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &problem) && errors.Is(err, event.ErrNotOwner):
		return api.Errorf(api.CodeRefused, "%v", problem)
	case errors.As(err, &problem):
		return api.Errorf(api.CodeInvalid, "%v", problem)
	case errors.Is(err, eventlog.ErrKeyTaken):
		return api.Errorf(api.CodeConflict, "key: %v", err)
	}
	return err
}

var consumerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// streamConsumer sends the events after a durable consumer's last acknowledged one, and follows. What was not acknowledged
// comes again with the next stream.
func (a *Agent) streamConsumer(w http.ResponseWriter, r *http.Request) error {
	x := a.external
	name := r.PathValue("name")
	if !consumerName.MatchString(name) {
		return api.Errorf(api.CodeInvalid, "consumer %q: want 1 to 64 letters, digits, dots, dashes or underscores", name)
	}
	if err := x.ready(r.Context()); err != nil {
		return err
	}
	after, turned, err := x.open(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-turned:
			cancel()
		case <-ctx.Done():
		}
	}()
	var f eventlog.Filter
	if t := r.URL.Query().Get("type"); t != "" {
		f.Types = []string{t}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	httpd.Flush(w)
	enc := json.NewEncoder(w)
	for rec, err := range a.replica.Tail(ctx, eventlog.After(after), f, true) {
		var gap *eventlog.Compacted
		switch {
		case errors.As(err, &gap):
			err = enc.Encode(api.CompactedLine{Compacted: api.Compacted{From: gap.From, To: gap.To, Oldest: gap.Oldest}})
		case err != nil:
			if ctx.Err() != nil {
				return nil
			}
		default:
			err = enc.Encode(rec.Line())
		}
		if err != nil {
			return err
		}
		httpd.Flush(w)
	}
	return nil
}

func (x *external) cursor(name string) (uint64, error) {
	b, ok, err := x.cursors.Get("cursor/" + name)
	if err != nil || !ok {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("cursor of consumer %s is damaged", name)
	}
	return binary.BigEndian.Uint64(b), nil
}

// ack moves a consumer's cursor forward, never back, and never past the end of the log.
func (x *external) ack(ctx context.Context, name string, seq uint64) error {
	if !consumerName.MatchString(name) {
		return api.Errorf(api.CodeInvalid, "consumer %q: want 1 to 64 letters, digits, dots, dashes or underscores", name)
	}
	if err := x.ready(ctx); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if last := x.a.replica.Status().Last; seq > last {
		return api.Errorf(api.CodeInvalid, "seq %d: the log ends at %d here", seq, last)
	}
	old, err := x.cursor(name)
	if err != nil || seq <= old {
		return err
	}
	if err := x.stale(name); err != nil {
		return err
	}
	return x.cursors.Put("cursor/"+name, binary.BigEndian.AppendUint64(nil, seq))
}
