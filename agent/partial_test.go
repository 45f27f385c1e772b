package agent_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/internal/id"
)

// What a node half fetched and nobody goes on with does not stay until its next start, which may be months away.
func TestHalfFetchedFilesGoWhileTheNodeRuns(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Core: 1, Specs: base(everywhere("TEST_SEAT", (&seats{}).run))})
	dir := filepath.Join(r.Node("c1").Dir, "blobs", "partial")
	old, young := filepath.Join(dir, string(id.DigestOf([]byte("old")))+".part"), filepath.Join(dir, string(id.DigestOf([]byte("young")))+".part")
	for path, age := range map[string]time.Duration{old: 72 * time.Hour, young: time.Hour} {
		at := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(path, []byte("half"), 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	r.Until("the old one is gone", func(context.Context) error {
		if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
			return errors.New("it is there")
		}
		return nil
	})
	if _, err := os.Stat(young); err != nil {
		t.Error(err)
	}
}
