package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent/config"
)

// A log in a file is read by other programs than a terminal.
func TestLogInAFileHasNoColour(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	f, err := os.Create(filepath.Join(t.TempDir(), "agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	log, _, err := NewLogger(f, config.Log{Level: "info", Format: "console"})
	if err != nil {
		t.Fatal(err)
	}
	log.Error().Str("node", "n1").Msg("something")
	b, err := os.ReadFile(f.Name())
	if err != nil || !strings.Contains(string(b), "node=n1") || strings.Contains(string(b), "\x1b") {
		t.Errorf("%q, %v", b, err)
	}
}
