package blob

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/internal/disk"
	"github.com/ringagent/ringagent/internal/id"
)

var (
	// ErrNotFound says that the store has no such artifact.
	ErrNotFound = errors.New("no such artifact here")
	// ErrNoSpace says that the disk (or a quota) is full. What was being written is gone again.
	ErrNoSpace = errors.New("no space left for artifacts")
	// ErrTooLarge says that an artifact passes the store's limit.
	ErrTooLarge = errors.New("artifact is too large")
	// ErrDamaged says that bytes do not have the digest they should have. Its method Damaged lets those who cannot import this
	// package recognise it.
	ErrDamaged error = damagedError{}
	// ErrNoPermit says that a copy was to be deleted without leave.
	ErrNoPermit = errors.New("no permit to delete")
)

type damagedError struct{}

func (damagedError) Error() string { return "artifact is damaged" }
func (damagedError) Damaged() bool { return true }

// DefaultMaxBytes bounds one artifact unless Options say otherwise.
const DefaultMaxBytes = 64 << 30

// Options configure a Store. The zero value of each field has a meaning.
type Options struct {
	Quarantine string           // directory for damaged files; empty: "quarantine" beside the store's directory
	MaxBytes   int64            // of one artifact; 0: DefaultMaxBytes
	Log        zerolog.Logger   // of sweeps and quarantines; the zero value discards
	Now        func() time.Time // for names and reasons in quarantine; nil: time.Now
	// Most and MostBytes bound how many artifacts are kept in quarantine: the oldest go first. Other files stay, whatever they
	// take: they may hold what is nowhere else. 0: 256 and 4 GiB
	Most      int
	MostBytes int64
	Step      func(what string) // for tests: told of each step of giving a file its name, may block there; nil: nobody
}

// Store is an open directory of artifacts.
type Store struct {
	dir        string
	quarantine string
	maxBytes   int64
	log        zerolog.Logger
	now        func() time.Time
	most       int
	mostBytes  int64
	aside      sync.Mutex // of the bounds of quarantine

	// Seams for tests: step is called between the steps of publishing, stage wraps the file being staged, free is what can
	// still be written.
	step  func(what string)
	stage func(f *os.File) io.Writer
	free  func(dir string) (int64, error)
}

// Info is what the store knows about one artifact without reading it.
type Info struct {
	Digest id.Digest
	Size   int64     // bytes
	Stored time.Time // when it got its name
}

// Open opens or makes the store in dir and removes what a crash left in staging. Half-fetched files in partial/ stay: their
// owner can go on with them.
func Open(dir string, o Options) (*Store, error) {
	s := &Store{dir: dir, quarantine: cmp.Or(o.Quarantine, filepath.Join(filepath.Dir(dir), "quarantine")),
		maxBytes: cmp.Or(o.MaxBytes, DefaultMaxBytes), log: o.Log, now: o.Now,
		most: cmp.Or(o.Most, 256), mostBytes: cmp.Or(o.MostBytes, 4<<30),
		step: o.Step, stage: func(f *os.File) io.Writer { return f }, free: disk.Free}
	if s.now == nil {
		s.now = time.Now
	}
	if s.step == nil {
		s.step = func(string) {}
	}
	if err := s.makeDirs(); err != nil {
		return nil, fmt.Errorf("open artifact store: %w", full(err))
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("sweep artifact store: %w", err)
	}
	return s, nil
}

// makeDirs makes all shards at once, so that storing an artifact has one directory to bring to disk, not two.
func (s *Store) makeDirs() error {
	for _, d := range []string{s.staging(), s.PartialDir(), s.quarantine, filepath.Join(s.dir, "sha256")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	made := false
	for i := range 256 {
		err := os.Mkdir(filepath.Join(s.dir, "sha256", hex.EncodeToString([]byte{byte(i)})), 0o700)
		switch {
		case err == nil:
			made = true
		case !errors.Is(err, fs.ErrExist):
			return err
		}
	}
	if !made {
		return nil
	}
	return errors.Join(syncDir(filepath.Join(s.dir, "sha256")), syncDir(s.dir), syncDir(filepath.Dir(s.dir)))
}

func (s *Store) sweep() error {
	left, err := os.ReadDir(s.staging())
	if err != nil {
		return err
	}
	for _, e := range left {
		if err := os.RemoveAll(filepath.Join(s.staging(), e.Name())); err != nil {
			return err
		}
	}
	if len(left) > 0 {
		s.log.Info().Int("files", len(left)).Msg("removed unfinished artifacts")
	}
	return nil
}

func (s *Store) staging() string { return filepath.Join(s.dir, "staging") }

// PartialDir is a directory on the store's file system for files that are still arriving. The store never looks into it.
func (s *Store) PartialDir() string { return filepath.Join(s.dir, "partial") }

// Path is where an artifact is or would be. Readers that need a name, such as SQLite, may use it; nobody may write to it.
// A malformed digest has a path that never exists.
func (s *Store) Path(d id.Digest) string {
	if _, err := id.ParseDigest(string(d)); err != nil {
		return filepath.Join(s.dir, "sha256", "malformed")
	}
	return filepath.Join(s.dir, "sha256", string(d[:2]), string(d))
}

// Sidecar is the path for data derived from an artifact, such as a list of its chunks' hashes. Sidecars may vanish at any
// time and go when the artifact goes; kind is lower-case letters.
func (s *Store) Sidecar(d id.Digest, kind string) string { return s.Path(d) + "." + kind }

// Has says whether the store has the artifact.
func (s *Store) Has(d id.Digest) bool {
	_, err := s.Stat(d)
	return err == nil
}

// Stat describes an artifact; ErrNotFound if it is not here.
func (s *Store) Stat(d id.Digest) (Info, error) {
	info, err := os.Lstat(s.Path(d))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Info{}, fmt.Errorf("artifact %s: %w", d.Short(), ErrNotFound)
	case err != nil:
		return Info{}, fmt.Errorf("stat artifact %s: %w", d.Short(), err)
	case !info.Mode().IsRegular():
		return Info{}, fmt.Errorf("artifact %s is %v: %w", d.Short(), info.Mode().Type(), ErrDamaged)
	}
	return Info{Digest: d, Size: info.Size(), Stored: info.ModTime()}, nil
}

// Open opens an artifact for reading; ErrNotFound if it is not here. The caller closes the file.
func (s *Store) Open(d id.Digest) (*os.File, error) {
	f, err := openRegular(s.Path(d))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("artifact %s: %w", d.Short(), ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("open artifact %s: %w", d.Short(), err)
	}
	return f, nil
}

// openRegular opens a regular file and nothing else: no link, no device, no pipe that would block.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file: %w", path, ErrDamaged)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// List describes all artifacts, ordered by digest.
func (s *Store) List() ([]Info, error) {
	var out []Info
	for i := range 256 {
		shard := filepath.Join(s.dir, "sha256", hex.EncodeToString([]byte{byte(i)}))
		entries, err := os.ReadDir(shard)
		if err != nil {
			return nil, fmt.Errorf("list artifacts: %w", err)
		}
		for _, e := range entries {
			d, err := id.ParseDigest(e.Name())
			if err != nil || !strings.HasPrefix(e.Name(), filepath.Base(shard)) {
				continue // a sidecar
			}
			info, err := s.Stat(d)
			if errors.Is(err, ErrNotFound) {
				continue // removed meanwhile
			}
			if err != nil {
				return nil, fmt.Errorf("list artifacts: %w", err)
			}
			out = append(out, info)
		}
	}
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return out, nil
}

// Verify reads an artifact to its end and compares its hash; ErrDamaged if it differs. It changes nothing.
func (s *Store) Verify(ctx context.Context, d id.Digest) error {
	f, err := s.Open(d)
	if err != nil {
		return err
	}
	defer f.Close()
	got, _, err := hashAll(ctx, f)
	if err != nil {
		return fmt.Errorf("verify artifact %s: %w", d.Short(), err)
	}
	if got != d {
		return fmt.Errorf("artifact %s has the bytes of %s: %w", d.Short(), got.Short(), ErrDamaged)
	}
	return nil
}

// full adds ErrNoSpace to the errors that mean it.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
