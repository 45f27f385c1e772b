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
	"slices"
	"strings"
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
	dir := filepath.Dir(s.Path(d))
	side, _ := fs.Glob(os.DirFS(dir), filepath.Base(s.Path(d))+".*") // the pattern is well formed: hex digits
	for _, name := range side {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
	return s.QuarantineArtifact(d, s.Path(d), reason)
}

// QuarantineArtifact is Quarantine for an artifact that has not got its name yet: its bytes are in the file at path.
func (s *Store) QuarantineArtifact(d id.Digest, path, reason string) error {
	if err := s.setAside(path, string(d), reason); err != nil {
		return fmt.Errorf("quarantine artifact %s: %w", d.Short(), err)
	}
	s.removeSidecars(d)
	if err := s.bound(); err != nil {
		s.log.Warn().Err(err).Msg("quarantine holds more than it should")
	}
	return nil
}

// bound removes the oldest artifacts from quarantine until the others fit. What is no artifact is not touched.
func (s *Store) bound() error {
	s.aside.Lock()
	defer s.aside.Unlock()
	entries, err := os.ReadDir(s.quarantine)
	if err != nil {
		return err
	}
	var kept []fs.FileInfo
	sum := int64(0)
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), ".")
		if _, err := id.ParseDigest(name); err != nil || strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		if info, err := e.Info(); err == nil { // else it is gone meanwhile
			kept = append(kept, info)
			sum += info.Size()
		}
	}
	// Names go by the time of the quarantine, that of a file is when its bytes came.
	slices.SortFunc(kept, func(x, y fs.FileInfo) int { return strings.Compare(asideAt(x.Name()), asideAt(y.Name())) })
	for len(kept) > 1 && (len(kept) > s.most || sum > s.mostBytes) {
		path := filepath.Join(s.quarantine, kept[0].Name())
		if err := errors.Join(os.Remove(path), os.Remove(path+".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.log.Info().Str("file", kept[0].Name()).Msg("quarantine is full; its oldest artifact is gone")
		sum -= kept[0].Size()
		kept = kept[1:]
	}
	return nil
}

// asideAt is the part of a name in quarantine that says when and makes it unique.
func asideAt(name string) string {
	_, at, _ := strings.Cut(name, ".")
	return at
}

// QuarantineFile moves any regular file into quarantine, also from another file system.
func (s *Store) QuarantineFile(path, reason string) error {
	if err := s.setAside(path, filepath.Base(path), reason); err != nil {
		return fmt.Errorf("quarantine %s: %w", path, err)
	}
	return nil
}

// KeepFile puts a second name of a regular file, or a copy where that is on another file system, into quarantine, and returns
// it. What stands beside the file under its name with one of the suffixes belongs to it: all of it is kept, or nothing. The
// original stays where it is; nobody may write to it any more.
func (s *Store) KeepFile(path, reason string, suffixes ...string) (string, error) {
	dst, err := s.keep(path, reason, suffixes)
	if err != nil {
		return "", fmt.Errorf("keep %s in quarantine: %w", path, full(err))
	}
	return dst, nil
}

func (s *Store) keep(path, reason string, suffixes []string) (dst string, err error) {
	if dst, err = s.note(path, filepath.Base(path), reason); err != nil {
		return "", err
	}
	made := []string{dst + ".json"}
	defer func() {
		if err != nil {
			for _, p := range made {
				_ = os.Remove(p)
			}
		}
	}()
	for _, suffix := range append([]string{""}, suffixes...) {
		err := double(path+suffix, dst+suffix)
		if suffix != "" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		made = append(made, dst+suffix)
	}
	s.log.Warn().Str("file", filepath.Base(path)).Str("quarantine", dst).Str("reason", reason).Msg("kept in quarantine")
	return dst, syncDir(s.quarantine)
}

// double gives a file a second name, or copies it to another file system.
func double(path, dst string) error {
	err := os.Link(path, dst)
	if errors.Is(err, syscall.EXDEV) {
		return duplicate(path, dst)
	}
	return err
}

// note writes down why a file goes into quarantine, and returns its name there.
func (s *Store) note(path, name, reason string) (string, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err != nil {
		return "", err
	}
	at := s.now().UTC()
	note, err := json.MarshalIndent(quarantined{Name: name, Reason: reason,
		At: at.Format("2006-01-02T15:04:05Z"), Bytes: info.Size()}, "", "  ")
	if err != nil {
		return "", err
	}
	// The random part keeps two of one name and second apart. The note comes first: a file without one explains nothing.
	dst := filepath.Join(s.quarantine, fmt.Sprintf("%.80s.%s.%s", name, at.Format("20060102_150405"), id.NewBoot()))
	if err := writeSynced(dst+".json", note); err != nil {
		return "", err
	}
	return dst, nil
}

func (s *Store) setAside(path, name, reason string) error {
	dst, err := s.note(path, name, reason)
	if err != nil {
		return full(err)
	}
	if err := move(path, dst); err != nil {
		_ = os.Remove(dst + ".json")
		return full(err)
	}
	s.log.Warn().Str("file", name).Str("quarantine", dst).Str("reason", reason).Msg("put into quarantine")
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
func move(path, dst string) error {
	err := os.Rename(path, dst)
	if !errors.Is(err, syscall.EXDEV) {
		return err
	}
	if err := duplicate(path, dst); err != nil {
		return err
	}
	return os.Remove(path)
}

// duplicate copies a regular file and brings the copy to disk.
func duplicate(path, dst string) error {
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
	return nil
}
