package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
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
