package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ringagent/ringagent/internal/id"
)

type cutOff struct{}

func (cutOff) Read([]byte) (int, error) { return 0, errors.New("connection cut") }

// Only the right bytes get the name that was asked for; after anything else what had it is still there, and nothing beside it.
func TestWrittenArtifactHasItsHash(t *testing.T) {
	t.Parallel()
	d := id.DigestOf([]byte("the bytes"))
	for name, c := range map[string]struct {
		body io.Reader
		good bool
	}{
		"right": {strings.NewReader("the bytes"), true},
		"other": {strings.NewReader("the bytez"), false},
		"short": {strings.NewReader("the byte"), false},
		"none":  {strings.NewReader(""), false},
		"cut":   {io.MultiReader(strings.NewReader("the "), cutOff{}), false},
	} {
		dir := t.TempDir()
		out := filepath.Join(dir, "out")
		if err := os.WriteFile(out, []byte("before"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := writeArtifact(out, c.body, d); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
		b, err := os.ReadFile(out)
		if want := map[bool]string{true: "the bytes", false: "before"}[c.good]; err != nil || string(b) != want {
			t.Errorf("%s: %q %v", name, b, err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// A pipe without a writer would be waited for, past every limit that was asked for.
func TestOnlyARegularFileIsPut(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{pipe, filepath.Dir(pipe), "/dev/null"} {
		if f, err := openRegular(file); err == nil {
			_ = f.Close()
			t.Errorf("%s was opened", file)
		}
	}
	if f, err := openRegular("data_test.go"); err != nil {
		t.Error(err)
	} else {
		_ = f.Close()
	}
}
