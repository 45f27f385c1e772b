package blob

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/internal/id"
)

func openStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(filepath.Join(dir, "blobs [1"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, text string) id.Digest {
	t.Helper()
	d, n, err := s.Put(t.Context(), strings.NewReader(text))
	if err != nil || d != id.DigestOf([]byte(text)) || n != int64(len(text)) {
		t.Fatalf("put: %s %d %v", d, n, err)
	}
	return d
}

// staged counts the files that are neither artifacts nor sidecars.
func staged(t *testing.T, s *Store) int {
	t.Helper()
	left, err := os.ReadDir(s.staging())
	if err != nil {
		t.Fatal(err)
	}
	return len(left)
}

type permit func(id.Digest) error

func (p permit) Allow(d id.Digest) error { return p(d) }

func TestPutAndRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir)
	d := put(t, s, "hello")
	put(t, s, "hello")
	empty := put(t, s, "")
	f, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || string(b) != "hello" {
		t.Errorf("%q %v", b, err)
	}
	if f, err := os.OpenFile(s.Path(d), os.O_WRONLY, 0); err == nil {
		_ = f.Close()
		if os.Getuid() != 0 {
			t.Error("artifact can be opened for writing")
		}
	}
	source := filepath.Join(dir, "file")
	if err := os.WriteFile(source, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, n, err := s.PutFile(t.Context(), source)
	if err != nil || fd != id.DigestOf([]byte("from a file")) || n != 11 {
		t.Errorf("%s %d %v", fd, n, err)
	}
	again := openStore(t, dir)
	list, err := again.List()
	if err != nil || len(list) != 3 {
		t.Fatalf("%v %v", list, err)
	}
	for _, want := range []id.Digest{d, empty, fd} {
		if !again.Has(want) || again.Verify(t.Context(), want) != nil {
			t.Errorf("%s is not there", want)
		}
	}
	if again.Has(id.DigestOf([]byte("other"))) || again.Has("../../etc/passwd") || again.Has("") || staged(t, s) != 0 {
		t.Error("the store has what it should not have")
	}
	if _, err := s.Open(id.DigestOf([]byte("other"))); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestFailedPutLeavesNothing(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	s.maxBytes = 1 << 20
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		ctx  context.Context
		r    io.Reader
		want error
	}{
		"too large": {t.Context(), bytes.NewReader(make([]byte, 1<<20+1)), ErrTooLarge},
		"cancelled": {ctx, strings.NewReader("x"), context.Canceled},
		"reader":    {t.Context(), io.MultiReader(strings.NewReader("x"), failing{broken}), broken},
	} {
		if _, _, err := s.Put(c.ctx, c.r); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.stage = func(f *os.File) io.Writer {
		return writerFunc(func(p []byte) (int, error) {
			n, _ := f.Write(p[:len(p)/2])
			return n, &os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
		})
	}
	if _, _, err := s.Put(t.Context(), strings.NewReader("no room")); !errors.Is(err, ErrNoSpace) {
		t.Errorf("full disk: %v", err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 || staged(t, s) != 0 {
		t.Errorf("left: %v %v, %d staged", list, err, staged(t, s))
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

func TestNothingIsRemovedWithoutAPermit(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	d, other := put(t, s, "one"), put(t, s, "two")
	refused := errors.New("needs another copy")
	only := func(allowed id.Digest) Permit {
		return permit(func(d id.Digest) error {
			if d != allowed {
				return refused
			}
			return nil
		})
	}
	if err := s.Remove(d, nil); !errors.Is(err, ErrNoPermit) || !s.Has(d) {
		t.Errorf("no permit: %v", err)
	}
	if err := s.Remove(d, only(other)); !errors.Is(err, ErrNoPermit) || !errors.Is(err, refused) || !s.Has(d) {
		t.Errorf("permit for another: %v", err)
	}
	if err := os.WriteFile(s.Sidecar(d, "chunks"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Remove(d, only(d)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(s.Sidecar(d, "chunks")); !errors.Is(err, os.ErrNotExist) || s.Has(d) || !s.Has(other) {
		t.Errorf("sidecar: %v", err)
	}
}

func TestDamageIsFoundAndPutAside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir)
	flipped, cut, linked := put(t, s, "flipped"), put(t, s, "cut off"), put(t, s, "linked")
	damage := func(d id.Digest, text string) {
		if err := errors.Join(os.Chmod(s.Path(d), 0o600), os.WriteFile(s.Path(d), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	damage(flipped, "flippeD")
	damage(cut, "cut")
	if err := errors.Join(os.Remove(s.Path(linked)), os.Symlink("/etc/passwd", s.Path(linked))); err != nil {
		t.Fatal(err)
	}
	for _, d := range []id.Digest{flipped, cut, linked} {
		if err := s.Verify(t.Context(), d); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", d.Short(), err)
		}
	}
	put(t, s, "cut off") // the size gives it away, and the good bytes take its place
	put(t, s, "linked")
	if err := s.Quarantine(flipped, "hash differs"); err != nil {
		t.Fatal(err)
	}
	put(t, s, "flipped")
	for _, d := range []id.Digest{flipped, cut, linked} {
		if err := s.Verify(t.Context(), d); err != nil {
			t.Error(err)
		}
	}
	notes, _ := filepath.Glob(filepath.Join(dir, "quarantine", "*.json"))
	if len(notes) != 3 {
		t.Fatalf("notes: %v", notes)
	}
	reasons := map[string]string{}
	for _, n := range notes {
		var q quarantined
		b, err := os.ReadFile(n)
		if err = errors.Join(err, json.Unmarshal(b, &q)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(strings.TrimSuffix(n, ".json")); err != nil {
			t.Error(err)
		}
		reasons[q.Name] = q.Reason
	}
	if reasons[string(flipped)] != "hash differs" || reasons[string(cut)] == "" {
		t.Error(reasons)
	}
	if err := s.Quarantine(id.DigestOf(nil), "x"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestAdoptTakesOnlyTheRightBytes(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	part := filepath.Join(s.PartialDir(), "x")
	if err := os.WriteFile(part, []byte("arrived"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Adopt(t.Context(), part, id.DigestOf([]byte("expected"))); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	if _, err := os.Stat(part); err != nil {
		t.Error("the refused file is gone:", err)
	}
	for round := range 2 {
		if err := os.WriteFile(part, []byte("arrived"), 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := s.Adopt(t.Context(), part, id.DigestOf([]byte("arrived")))
		if _, gone := os.Stat(part); err != nil || n != 7 || !errors.Is(gone, os.ErrNotExist) {
			t.Errorf("round %d: %d %v %v", round, n, err, gone)
		}
	}
}

func TestLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir)
	one, two := put(t, s, "one"), put(t, s, "two")
	dst := filepath.Join(dir, "models", "connect4_2p")
	if err := os.Mkdir(filepath.Dir(dst), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, d := range []id.Digest{one, one, two, one} {
		if err := s.Link(d, dst); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(dst)
		if err != nil || id.DigestOf(b) != d {
			t.Fatalf("%q %v", b, err)
		}
	}
	for _, bad := range []string{"..", ".hidden", "a b", strings.Repeat("x", 200)} {
		if err := s.Link(one, filepath.Join(dir, "models")+"/"+bad); err == nil {
			t.Errorf("%q: linked", bad)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(dst)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestConcurrentPutsOfOneArtifact(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	text := strings.Repeat("x", 1<<20)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, _, err := s.Put(t.Context(), strings.NewReader(text)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := s.Verify(t.Context(), id.DigestOf([]byte(text))); err != nil || staged(t, s) != 0 {
		t.Error(err, staged(t, s))
	}
}

const crashText = "the bytes of an artifact whose writer is killed"

// TestMain also is the process that gets killed.
func TestMain(m *testing.M) {
	if at := os.Getenv("BLOB_TEST_CRASH_AT"); at != "" {
		crash(os.Getenv("BLOB_TEST_DIR"), at)
	}
	os.Exit(m.Run())
}

// crash stores an artifact, stops at the named step, says so and waits to be killed.
func crash(dir, at string) {
	wait := func() {
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is gone too
		os.Exit(3)
	}
	s, err := Open(dir, Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if at == "broken" { // what a store without staging would do
		_ = os.WriteFile(s.Path(id.DigestOf([]byte(crashText))), []byte(crashText[:10]), 0o600)
		wait()
	}
	if at == "half" {
		s.stage = func(f *os.File) io.Writer {
			return writerFunc(func(p []byte) (int, error) {
				_, _ = f.Write(p[:len(p)/2])
				wait()
				return 0, nil
			})
		}
	}
	s.step = func(what string) {
		if what == at {
			wait()
		}
	}
	if os.Getenv("BLOB_TEST_ADOPT") != "" {
		part := filepath.Join(s.PartialDir(), "x")
		if err = os.WriteFile(part, []byte(crashText), 0o600); err == nil {
			_, err = s.Adopt(context.Background(), part, id.DigestOf([]byte(crashText)))
		}
	} else {
		_, _, err = s.Put(context.Background(), strings.NewReader(crashText))
	}
	fmt.Println("not reached", err)
	os.Exit(1)
}

// check says what is wrong with a store after a crash: a name without its bytes.
func check(t *testing.T, s *Store) error {
	t.Helper()
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range list {
		err = errors.Join(err, s.Verify(t.Context(), info.Digest))
	}
	return err
}

func TestKilledWriterLeavesNoNameWithoutItsBytes(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct{ named, caught bool }{
		"half": {}, "written": {}, "synced": {}, "renamed": {named: true}, "broken": {named: true, caught: true},
		"adopt checked": {}, "adopt synced": {}, "adopt renamed": {named: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "blobs")
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			at, adopt := strings.CutPrefix(name, "adopt ")
			cmd.Env = append(os.Environ(), "BLOB_TEST_CRASH_AT="+at, "BLOB_TEST_DIR="+dir)
			if adopt { // what was fetched from another node
				cmd.Env = append(cmd.Env, "BLOB_TEST_ADOPT=1")
			}
			stdin, err1 := cmd.StdinPipe()
			stdout, err2 := cmd.StdoutPipe()
			if err := errors.Join(err1, err2, cmd.Start()); err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
				t.Fatalf("child said %q %v", line, err)
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // it was killed
			s, err := Open(dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Has(id.DigestOf([]byte(crashText))); got != want.named {
				t.Errorf("named: %v", got)
			}
			if err := check(t, s); (err != nil) != want.caught {
				t.Errorf("check: %v", err)
			}
			if n := staged(t, s); n != 0 {
				t.Errorf("%d files in staging after the next start", n)
			}
		})
	}
}

func TestListIgnoresSidecars(t *testing.T) {
	t.Parallel()
	s := openStore(t, t.TempDir())
	d := put(t, s, "x")
	if err := os.WriteFile(s.Sidecar(d, "chunks"), []byte("y"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]id.Digest{d}, []id.Digest{list[0].Digest}); diff != "" || len(list) != 1 {
		t.Error(diff, list)
	}
}
