package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
)

// freshConfig is the config of a ring's first node, in a folder of its own with a ballast that takes no room.
func freshConfig(t *testing.T) config.Config {
	t.Helper()
	c := config.Default(filepath.Join(t.TempDir(), "data"))
	c.NodeName, c.Listen = "c1", "127.0.8.2:8770"
	if err := os.Mkdir(c.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(c.DataDir, "ballast")
	if err := os.WriteFile(ballast, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(ballast, ballastBytes); err != nil {
		t.Fatal(err)
	}
	return c
}

// The operator's token is made where the config says, and the next start finds it there.
func TestTokenFileIsMadeWhereItIsConfigured(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]string{"none": "", "empty": "\n", "the operator's own": "s3cret\n"} {
		c := freshConfig(t)
		c.API.TokenFile = filepath.Join(t.TempDir(), "operator.token")
		if before != "" {
			if err := os.WriteFile(c.API.TokenFile, []byte(before), 0o640); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Init("r", c, config.DefaultRing()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b, err := os.ReadFile(c.API.TokenFile)
		st, _ := os.Stat(c.API.TokenFile)
		switch own := strings.TrimSpace(before) != ""; {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case own && (string(b) != before || st.Mode().Perm() != 0o640):
			t.Errorf("%s: it was changed to %q %v", name, b, st.Mode())
		case !own && (len(strings.TrimSpace(string(b))) < 32 || st.Mode().Perm() != 0o600):
			t.Errorf("%s: made %q %v", name, b, st.Mode())
		}
		if exists(filepath.Join(c.DataDir, "api.token")) {
			t.Errorf("%s: there is another one in the data dir", name)
		}
		got, _, err := config.Load(c.DataDir, filepath.Join(c.DataDir, "config.yaml"))
		if err != nil || got.TokenPath() != c.API.TokenFile {
			t.Errorf("%s: the next start reads %s, %v", name, got.TokenPath(), err)
		}
	}
}

// In the data dir it is not written down, so that the folder may be moved.
func TestTokenInTheDataDirMovesWithIt(t *testing.T) {
	t.Parallel()
	for _, said := range []bool{false, true} {
		c := freshConfig(t)
		if said {
			c.API.TokenFile = filepath.Join(c.DataDir, "api.token")
		}
		if _, err := Init("r", c, config.DefaultRing()); err != nil {
			t.Fatal(err)
		}
		moved := filepath.Join(t.TempDir(), "moved")
		if err := os.Rename(c.DataDir, moved); err != nil {
			t.Fatal(err)
		}
		got, _, err := config.Load(moved, filepath.Join(moved, "config.yaml"))
		if err != nil || got.TokenPath() != filepath.Join(moved, "api.token") || !exists(got.TokenPath()) {
			t.Errorf("said %v: %s, %v", said, got.TokenPath(), err)
		}
	}
}

// Where the token cannot be made nothing is: no ring, and no use of a join token.
func TestTokenFileThatCannotBeMade(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]string{"no folder": filepath.Join(t.TempDir(), "missing", "t"), "a folder": t.TempDir()} {
		c := freshConfig(t)
		c.API.TokenFile = file
		token := identity.NewToken(id.Digest(strings.Repeat("0", 64)))
		for does, err := range map[string]error{
			"init": second(Init("r", c, config.DefaultRing())),
			"join": Enrol(t.Context(), Enrolment{Config: c, Seeds: []string{"127.0.0.1:1"}, Token: token.Encode()}),
		} {
			e := api.AsError(err)
			if err == nil || e.Exit() != 2 || !strings.Contains(e.Message, "api.token_file "+file) || e.Hint == "" {
				t.Errorf("%s, %s: %v", does, name, err)
			}
		}
		if used(c.DataDir) || exists(filepath.Join(c.DataDir, "tls")) {
			t.Errorf("%s: a ring was begun", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }
