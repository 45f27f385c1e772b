package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/eventlog/event"
)

// What other processes left in the spool while the agent was down is stated once, whatever happens between stating and
// removing; what is no event goes to quarantine and holds nobody up.
func TestSpool(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Specs: base()})
	n := r.Node("c1")
	n.Stop()
	spool := filepath.Join(n.Dir, "spool")
	good := `{"type":"OPERATOR_NOTE","payload":{"text":"spooled"}}`
	files := map[string]string{
		"a-broken.json":  `{"type":`,
		"b-unknown.json": `{"type":"NO_SUCH_EVENT","payload":{}}`,
		"c-fact.json":    `{"type":"MODEL_PROMOTED","payload":{}}`,
		"d-large.json":   `{"type":"OPERATOR_NOTE","payload":{"text":"` + strings.Repeat("x", 200<<10) + `"}}`,
		"e-good.json":    good,
		"f-writing.tmp":  good,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(spool, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(spool, "g-folder.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.Start()
	spooled := func(want int) {
		t.Helper()
		r.Until("the spool to be emptied", func(ctx context.Context) error {
			left, err := filepath.Glob(filepath.Join(spool, "*"))
			if err != nil || len(left) != 2 {
				return fmt.Errorf("left %v, %v", left, err)
			}
			ls, err := lines(ctx, n, "OPERATOR_NOTE")
			if err != nil {
				return err
			}
			if len(ls) > want {
				t.Fatalf("stated %d times, want %d", len(ls), want)
			}
			if len(ls) < want {
				return errors.New("not stated yet")
			}
			return nil
		})
	}
	spooled(1)
	bad, _ := filepath.Glob(filepath.Join(n.Dir, "quarantine", "*"))
	if len(bad) < 4 {
		t.Errorf("quarantine has %v, want the four bad files", bad)
	}
	// The same file once more, as after a crash between stating and removing.
	if err := os.WriteFile(filepath.Join(spool, "e-good.json"), []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	spooled(1)
}

// One name may be used for many events, and neither a key that stands for another event nor a file that may not be read
// holds the others up, or switches the poller off.
func TestSpooledFileHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Specs: base()})
	n := r.Node("c1")
	spool := filepath.Join(n.Dir, "spool")
	leave := func(name, key, text string, mode os.FileMode) {
		t.Helper()
		b := fmt.Appendf(nil, `{"type":"OPERATOR_NOTE","key":%q,"payload":{"text":%q}}`, key, text)
		tmp := filepath.Join(spool, name+".tmp")
		err := os.WriteFile(tmp, b, 0o600)
		if err == nil {
			err = errors.Join(os.Chmod(tmp, mode), os.Rename(tmp, filepath.Join(spool, name)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	stated := func(want ...string) {
		t.Helper()
		r.Until(fmt.Sprint("notes ", want), func(ctx context.Context) error {
			ls, err := lines(ctx, n, "OPERATOR_NOTE")
			var got []string
			for _, l := range ls {
				got = append(got, textOf(event.Record{Draft: event.Draft{Payload: l.Payload}}))
			}
			if err != nil || !slices.Equal(got, want) {
				return fmt.Errorf("stated %v, %v", got, err)
			}
			return nil
		})
	}
	leave("b.json", "", "one", 0o600)
	stated("one")
	leave("b.json", "", "two", 0o600)
	stated("one", "two")
	leave("b.json", "mine", "three", 0o600)
	stated("one", "two", "three")
	leave("a.json", "mine", "another", 0o600)
	leave("aa.json", "", "secret", 0) // who is root reads it all the same
	leave("b.json", "", "four", 0o600)
	want := []string{"one", "two", "three", "four"}
	if os.Geteuid() == 0 {
		want = slices.Insert(want, 3, "secret")
	}
	stated(want...)
	rows, err := daemonRows(t.Context(), n)
	if err != nil || rows["CROSS_PROCESS_POLLER"].State != "RUNNING" || rows["CROSS_PROCESS_POLLER"].Restarts != 0 {
		t.Errorf("the poller: %+v, %v", rows["CROSS_PROCESS_POLLER"], err)
	}
	if aside, err := filepath.Glob(filepath.Join(n.Dir, "quarantine", "a.json.*")); err != nil || len(aside) != 2 {
		t.Errorf("set aside: %v, %v; want the file and its reason", aside, err)
	}
}

// A consumer's cursor goes forward only, and only as far as the log.
func TestConsumerAcknowledges(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Specs: base()})
	n := r.Node("c1")
	p, err := note(t.Context(), n, "one", true)
	if err != nil {
		t.Fatal(err)
	}
	ack := func(name string, seq uint64) error {
		return n.Client().Post(t.Context(), "/api/v1/consume/"+name+"/ack", map[string]uint64{"seq": seq}, nil)
	}
	r.Until("acknowledge", func(context.Context) error { return ack("me", *p.Seq) })
	if err := ack("me", 1); err != nil {
		t.Errorf("an older acknowledgement is harmless, got %v", err)
	}
	var invalid *api.Error
	if err := ack("me", 1<<40); !errors.As(err, &invalid) || invalid.Code != api.CodeInvalid {
		t.Errorf("beyond the end: %v", err)
	}
	if err := ack(strings.Repeat("x", 65), 1); !errors.As(err, &invalid) || invalid.Code != api.CodeInvalid {
		t.Errorf("name too long: %v", err)
	}
}

// A consumer begins behind what it has acknowledged, also after a restart of the agent; what it has only read comes again.
func TestConsumerBeginsBehindItsAcknowledgement(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Specs: base()})
	n := r.Node("c1")
	for _, text := range []string{"one", "two", "three"} {
		mustNote(t, r, n, text)
	}
	read := func(want int) (texts []string, seqs []uint64) {
		t.Helper()
		r.Until(fmt.Sprint("a stream of ", want, " lines"), func(ctx context.Context) error {
			texts, seqs = nil, nil
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			body, err := consumed(ctx, n, "me")
			if err != nil {
				return err
			}
			defer body.Close()
			dec := json.NewDecoder(body)
			for range want {
				var l event.Line
				if err := dec.Decode(&l); err != nil {
					return err
				}
				texts, seqs = append(texts, textOf(event.Record{Draft: event.Draft{Payload: l.Payload}})), append(seqs, l.Seq)
			}
			return nil
		})
		return texts, seqs
	}
	texts, seqs := read(3)
	if !slices.Equal(texts, []string{"one", "two", "three"}) {
		t.Fatalf("read %v", texts)
	}
	if again, _ := read(3); !slices.Equal(again, texts) {
		t.Errorf("what was not acknowledged came again as %v", again)
	}
	if err := n.Client().Post(t.Context(), "/api/v1/consume/me/ack", map[string]uint64{"seq": seqs[1]}, nil); err != nil {
		t.Fatal(err)
	}
	n.Restart(false)
	if left, _ := read(1); !slices.Equal(left, []string{"three"}) {
		t.Errorf("behind the second: %v", left)
	}
	mustNote(t, r, n, "four")
	if left, _ := read(2); !slices.Equal(left, []string{"three", "four"}) {
		t.Errorf("what is new follows: %v", left)
	}
}

// consumed opens a consumer's stream of notes over a node's socket.
func consumed(ctx context.Context, n *agenttest.Node, name string) (io.ReadCloser, error) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(n.Dir, "agent.sock"))
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/api/v1/consume/"+name+"?type=OPERATOR_NOTE", http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("answered %s", resp.Status)
	}
	return resp.Body, nil
}
