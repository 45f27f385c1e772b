package agent

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/mesh/identity"
)

// hasAPIToken says whether the operator's token is there already, and refuses a place where it could not be made: before an
// enrolment has cost a use of its join token.
func hasAPIToken(c config.Config) (bool, error) {
	path := c.TokenPath()
	bad := func(format string, args ...any) error {
		return api.Errorf(api.CodeInvalid, "api.token_file %s: %s", path, fmt.Sprintf(format, args...)).
			WithHint("name a file in a folder that is there, or leave api.token_file out: the token is then kept in the data dir")
	}
	if st, err := os.Stat(filepath.Dir(path)); err != nil || !st.IsDir() {
		return false, bad("there is no folder %s", filepath.Dir(path))
	}
	switch st, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, bad("%v", err)
	case !st.Mode().IsRegular():
		return false, bad("is no regular file")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return false, bad("%v", err)
	}
	return strings.TrimSpace(string(b)) != "", nil
}

// ensureAPIToken makes the operator's token where there is none yet. One that somebody has put there is taken as it is.
func ensureAPIToken(c config.Config) error {
	has, err := hasAPIToken(c)
	if has || err != nil {
		return err
	}
	var b [24]byte
	if _, err := rand.Read(b[:]); err != nil {
		return fmt.Errorf("make api token: %w", err)
	}
	if err := identity.WriteFile(c.TokenPath(), []byte(hex.EncodeToString(b[:])+"\n")); err != nil {
		return fmt.Errorf("api.token_file: write api token: %w", err)
	}
	return nil
}

// keptTokenFile is api.token_file as config.yaml has to say it: the next start may have another working directory, and the
// data dir may be moved together with the token in it.
func keptTokenFile(d *dataDir, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return "", fmt.Errorf("api.token_file: %w", err)
	}
	if path == d.path("api.token") {
		return "", nil
	}
	return path, nil
}
