package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/id"
)

// delivered is the answer of data get.
type delivered struct {
	SHA256 id.Digest `json:"sha256"`
	Path   string    `json:"path"`
	Bytes  int64     `json:"bytes"`
}

const toStdout = "-"

// deliverable refuses an --out to which nothing can be brought.
func deliverable(c *cli.Context) error {
	if c.String("out") != toStdout {
		return writable(c.String("out"))
	}
	if c.Bool("json") {
		return usage("--out -: the artifact takes standard output, so there is no place for --json")
	}
	return nil
}

// writable says whether a file may be written under the name out, in the place of another one, too.
func writable(out string) error {
	if _, err := os.Lstat(out); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	switch st, err := os.Stat(out); {
	case err == nil && st.IsDir():
		return usage("--out %s: is a folder; name the file to write in it", out)
	case err == nil && !st.Mode().IsRegular():
		return usage("--out %s: is no regular file; --out - writes to standard output", out)
	}
	return nil
}

// deliver brings an artifact's bytes to where --out says.
func deliver(c *cli.Context, body io.Reader, want id.Digest) error {
	out := c.String("out")
	if out == toStdout {
		return pourArtifact(c.App.Writer, body, want)
	}
	size, err := writeArtifact(out, body, want)
	if err != nil {
		return err
	}
	return show(c, delivered{want, out, size}, func(io.Writer, delivered) {})
}

// pourArtifact cannot take back what it has written; it must at least say so.
func pourArtifact(w io.Writer, body io.Reader, want id.Digest) error {
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, sum), body); err != nil {
		return fmt.Errorf("read artifact: %w", err)
	}
	if got := id.Digest(hex.EncodeToString(sum.Sum(nil))); got != want {
		return api.Errorf(api.CodeFailed, "artifact %s arrived with the bytes of %s; do not use what was written", want.Short(), got.Short())
	}
	return nil
}

// writeArtifact writes to a temporary file beside out and renames it, so that the name never has half the bytes, nor others
// than those of the digest.
func writeArtifact(out string, body io.Reader, want id.Digest) (size int64, err error) {
	tmp, err := os.CreateTemp(filepath.Dir(out), ".ringagent-*")
	if err != nil {
		return 0, fmt.Errorf("make temporary file: %w", err)
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	sum := sha256.New()
	if size, err = io.Copy(io.MultiWriter(tmp, sum), body); err != nil {
		return 0, fmt.Errorf("read artifact: %w", err)
	}
	if got := id.Digest(hex.EncodeToString(sum.Sum(nil))); got != want {
		return 0, api.Errorf(api.CodeFailed, "artifact %s arrived with the bytes of %s; nothing is written", want.Short(), got.Short())
	}
	if err = errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return 0, fmt.Errorf("write artifact: %w", err)
	}
	if err = os.Rename(tmp.Name(), out); err != nil {
		return 0, fmt.Errorf("name artifact: %w", err)
	}
	return size, nil
}
