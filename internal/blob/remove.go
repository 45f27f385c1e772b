package blob

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/ringagent/ringagent/internal/id"
)

// Permit is the coordinator's leave to delete this node's copy of an artifact. It is made by whatever holds the
// coordinator's answer, never in this package, so that code without such an answer cannot call Remove.
type Permit interface {
	// Allow returns nil if the copy of d on this node may be deleted now. It is asked right before the deletion.
	Allow(d id.Digest) error
}

// Remove deletes an artifact and its sidecars. Hard links made by Link stay and keep the bytes on disk. An artifact that is
// not here is no error; without leave it is ErrNoPermit.
func (s *Store) Remove(d id.Digest, p Permit) error {
	if p == nil {
		return fmt.Errorf("remove artifact %s: %w", d.Short(), ErrNoPermit)
	}
	if err := p.Allow(d); err != nil {
		return fmt.Errorf("remove artifact %s: %w: %w", d.Short(), ErrNoPermit, err)
	}
	if err := os.Remove(s.Path(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove artifact %s: %w", d.Short(), err)
	}
	s.removeSidecars(d)
	if err := syncDir(filepath.Dir(s.Path(d))); err != nil {
		return fmt.Errorf("remove artifact %s: %w", d.Short(), err)
	}
	return nil
}

func (s *Store) removeSidecars(d id.Digest) {
	side, _ := filepath.Glob(s.Path(d) + ".*") // the pattern is well formed: hex digits
	for _, p := range side {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn().Err(err).Msg("sidecar of a removed artifact stays")
		}
	}
}

// linkName is what a link to an artifact may be called.
var linkName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Link makes dst a hard link to an artifact, replacing in one step what was there. The directory of dst must exist and be on
// the store's file system.
func (s *Store) Link(d id.Digest, dst string) error {
	if !linkName.MatchString(filepath.Base(dst)) {
		return fmt.Errorf("link artifact %s: name %.80q: %w", d.Short(), filepath.Base(dst), fs.ErrInvalid)
	}
	info, err := s.Stat(d)
	if err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(dst), ".link-"+string(id.NewBoot()))
	if err := os.Link(s.Path(d), temp); err != nil {
		return fmt.Errorf("link artifact %s (%d bytes): %w", d.Short(), info.Size, full(err))
	}
	// Renaming one link of a file onto another does nothing and leaves both, so the temporary one goes in any case.
	err = os.Rename(temp, dst)
	if gone := os.Remove(temp); err == nil && gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		err = gone
	}
	if err == nil {
		err = syncDir(filepath.Dir(dst))
	}
	if err != nil {
		return fmt.Errorf("link artifact %s: %w", d.Short(), full(err))
	}
	return nil
}

// quarantined is the note beside a file in quarantine.
type quarantined struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
	At     string `json:"at"`
	Bytes  int64  `json:"bytes"`
}

// Quarantine moves an artifact out of the store, with a note that says why. Its name is free again.
func (s *Store) Quarantine(d id.Digest, reason string) error {
	if err := s.setAside(s.Path(d), reason); err != nil {
		return fmt.Errorf("quarantine artifact %s: %w", d.Short(), err)
	}
	s.removeSidecars(d)
	return nil
}

// QuarantineFile moves any regular file into quarantine, also from another file system.
func (s *Store) QuarantineFile(path, reason string) error {
	if err := s.setAside(path, reason); err != nil {
		return fmt.Errorf("quarantine %s: %w", path, err)
	}
	return nil
}

func (s *Store) setAside(path, reason string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err != nil {
		return err
	}
	at := s.now().UTC()
	note, err := json.MarshalIndent(quarantined{Name: filepath.Base(path), Reason: reason,
		At: at.Format("2006-01-02T15:04:05Z"), Bytes: info.Size()}, "", "  ")
	if err != nil {
		return err
	}
	// The random part keeps two of one name and second apart. The note comes first: a file without one explains nothing.
	dst := filepath.Join(s.quarantine, fmt.Sprintf("%.80s.%s.%s", filepath.Base(path), at.Format("20060102_150405"), id.NewBoot()))
	if err := writeSynced(dst+".json", note); err != nil {
		return full(err)
	}
	if err := move(path, dst, info); err != nil {
		_ = os.Remove(dst + ".json")
		return full(err)
	}
	s.log.Warn().Str("file", filepath.Base(path)).Str("quarantine", dst).Str("reason", reason).Msg("put into quarantine")
	return errors.Join(syncDir(s.quarantine), syncDir(filepath.Dir(path)))
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// move renames, or copies between file systems.
func move(path, dst string, info fs.FileInfo) error {
	err := os.Rename(path, dst)
	if !errors.Is(err, syscall.EXDEV) {
		return err
	}
	if !info.Mode().IsRegular() {
		return err
	}
	in, err := openRegular(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		_ = os.Remove(dst)
		return err
	}
	return os.Remove(path)
}
