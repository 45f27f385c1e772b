package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/ringagent/ringagent/internal/id"
)

// copyPiece is how much is copied or hashed between two looks at the context.
const copyPiece = 256 << 10

// Put stores what r yields and returns its digest and size in bytes. When it returns nil the artifact is on disk. Bytes that
// are there already are read, and not written again if they are right. On error nothing is left behind.
func (s *Store) Put(ctx context.Context, r io.Reader) (id.Digest, int64, error) {
	return s.PutChecked(ctx, r, nil)
}

// Check looks into a file before it gets its final name. It may only read it.
type Check func(ctx context.Context, path string) error

// PutChecked is Put for bytes that must pass a check, also where they are in the store already. A copy that is there stays,
// whatever the check says, unless its own bytes are found to be others: then the good ones at hand take its place.
func (s *Store) PutChecked(ctx context.Context, r io.Reader, check Check) (id.Digest, int64, error) {
	temp, err := os.CreateTemp(s.staging(), "put-*")
	if err != nil {
		return "", 0, fmt.Errorf("stage artifact: %w", full(err))
	}
	defer func() {
		_ = temp.Close()           // closed already when all went well
		_ = os.Remove(temp.Name()) // renamed already when all went well
	}()
	digest, size, err := s.write(ctx, temp, r)
	if err != nil {
		return "", 0, fmt.Errorf("stage artifact: %w", full(err))
	}
	s.step("written")
	if check != nil {
		if err := check(ctx, temp.Name()); err != nil {
			return "", 0, fmt.Errorf("check artifact %s: %w", digest.Short(), err)
		}
	}
	there, err := s.intact(ctx, digest, size)
	if err != nil {
		return "", 0, fmt.Errorf("store artifact %s: %w", digest.Short(), err)
	}
	if there {
		return digest, size, nil
	}
	if err := s.publish(temp, digest); err != nil {
		return "", 0, fmt.Errorf("store artifact %s: %w", digest.Short(), full(err))
	}
	return digest, size, nil
}

// spareBytes is what a large copy leaves free on the disk. Smaller ones need their own room only: once a pack of games is stored,
// it can leave, and with it what the disk is full of.
const spareBytes = 64 << 20

// room says that a copy of so many bytes fits. One that does not would fill the disk, to the harm of all who write to it, before
// it failed, and again at the next attempt. Where the file system does not answer, it is tried.
func (s *Store) room(size int64) error {
	free, err := s.free(s.dir)
	need := size
	if size >= spareBytes {
		need += spareBytes
	}
	if err == nil && need > free {
		return fmt.Errorf("%d KiB, and %d are free: %w", size>>10, free>>10, ErrNoSpace)
	}
	return nil
}

// PutFile stores a copy of a regular file, as Put does, if there is room for it. A file whose bytes are there already is only read; whether the copy
// there is damaged at its right size, which would take as long again, is the caller's to Verify.
func (s *Store) PutFile(ctx context.Context, path string) (id.Digest, int64, error) {
	f, err := openRegular(path)
	if err != nil {
		return "", 0, fmt.Errorf("store file: %w", err)
	}
	defer f.Close()
	digest, size, err := hashAll(ctx, io.LimitReader(f, s.maxBytes+1))
	if err != nil {
		return "", 0, fmt.Errorf("store file %s: %w", path, err)
	}
	if size > s.maxBytes {
		return "", 0, fmt.Errorf("store file %s: more than %d bytes: %w", path, s.maxBytes, ErrTooLarge)
	}
	if s.presentWith(digest, size) {
		return digest, size, nil
	}
	if err := s.room(size); err != nil {
		return "", 0, fmt.Errorf("store file %s: %w", path, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", 0, fmt.Errorf("store file %s: %w", path, err)
	}
	return s.Put(ctx, f) // hashes again: the file may have changed, and what counts is what was written
}

// Adopt moves the file at path, which must be on the store's file system and belong to the caller, into the store under the
// digest want, and returns its size. The file's bytes are hashed first: ErrDamaged if they are others, and then the file
// stays where it is. After nil it is gone from path.
func (s *Store) Adopt(ctx context.Context, path string, want id.Digest) (int64, error) {
	return s.AdoptChecked(ctx, path, want, nil)
}

// AdoptChecked is Adopt for bytes that must pass a check, once their hash is right, before they get their name. After an
// error of the check the file stays where it is.
func (s *Store) AdoptChecked(ctx context.Context, path string, want id.Digest, check Check) (int64, error) {
	if _, err := id.ParseDigest(string(want)); err != nil {
		return 0, fmt.Errorf("adopt file: %w", err)
	}
	f, err := openRegular(path)
	if err != nil {
		return 0, fmt.Errorf("adopt file: %w", err)
	}
	defer f.Close()
	got, size, err := hashAll(ctx, f)
	if err != nil {
		return 0, fmt.Errorf("adopt %s: %w", want.Short(), err)
	}
	if got != want {
		return 0, fmt.Errorf("file for artifact %s has the bytes of %s: %w", want.Short(), got.Short(), ErrDamaged)
	}
	if check != nil {
		if err := check(ctx, path); err != nil {
			return 0, fmt.Errorf("check artifact %s: %w", want.Short(), err)
		}
	}
	s.step("checked")
	if s.presentWith(want, size) {
		if err := os.Remove(path); err != nil {
			return 0, fmt.Errorf("adopt %s: %w", want.Short(), err)
		}
		return size, nil
	}
	if err := s.publish(f, want); err != nil {
		return 0, fmt.Errorf("store artifact %s: %w", want.Short(), full(err))
	}
	return size, nil
}

func (s *Store) write(ctx context.Context, temp *os.File, r io.Reader) (id.Digest, int64, error) {
	h := sha256.New()
	size, err := io.CopyBuffer(io.MultiWriter(s.stage(temp), h),
		&contextReader{ctx: ctx, r: io.LimitReader(r, s.maxBytes+1)}, make([]byte, copyPiece))
	if err != nil {
		return "", 0, err
	}
	if size > s.maxBytes {
		return "", 0, fmt.Errorf("more than %d bytes: %w", s.maxBytes, ErrTooLarge)
	}
	return sum(h), size, nil
}

// presentWith says whether the artifact is there with that size. One with another size cannot be right, whatever damaged it;
// it is put aside, so that the good bytes at hand can take its place.
func (s *Store) presentWith(d id.Digest, size int64) bool {
	info, err := s.Stat(d)
	if errors.Is(err, ErrNotFound) {
		return false
	}
	if err == nil && info.Size == size {
		return true
	}
	reason := fmt.Sprintf("the store's copy has %d bytes instead of %d", info.Size, size)
	if err := s.Quarantine(d, reason); err != nil {
		s.log.Error().Err(err).Str("sha256", string(d)).Msg("damaged artifact stays in the way")
	}
	return false
}

// intact is presentWith for who has the good bytes at hand only now: the copy there is read too, and is put aside if its bytes
// are others or cannot be read.
func (s *Store) intact(ctx context.Context, d id.Digest, size int64) (bool, error) {
	if !s.presentWith(d, size) {
		return false, nil
	}
	err := s.Verify(ctx, d)
	if err == nil || ctx.Err() != nil {
		return err == nil, err
	}
	if err := s.Quarantine(d, err.Error()); err != nil && !errors.Is(err, ErrNotFound) {
		s.log.Error().Err(err).Str("sha256", string(d)).Msg("damaged artifact could not be put aside and is replaced")
	}
	return false, nil
}

// publish brings a file whose bytes have the digest to disk and gives it its name. It closes the file.
func (s *Store) publish(f *os.File, d id.Digest) error {
	// Read-only, because workloads get hard links to these very bytes.
	if err := f.Chmod(0o444); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	s.step("synced")
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), s.Path(d)); err != nil {
		return err
	}
	s.step("renamed")
	return syncDir(filepath.Dir(s.Path(d)))
}

func hashAll(ctx context.Context, r io.Reader) (id.Digest, int64, error) {
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, &contextReader{ctx: ctx, r: r}, make([]byte, copyPiece))
	if err != nil {
		return "", 0, err
	}
	return sum(h), n, nil
}

func sum(h hash.Hash) id.Digest { return id.Digest(hex.EncodeToString(h.Sum(nil))) }

// contextReader ends a long copy when its context ends. It hides every other method, so that copies go piece by piece.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
