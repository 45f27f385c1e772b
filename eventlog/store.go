package eventlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/ringagent/ringagent/internal/boltfile"
)

// ErrInUse says that another process has the file open.
var ErrInUse = boltfile.ErrInUse

// DamagedError says that a file cannot be trusted any more.
type DamagedError = boltfile.DamagedError

func damaged(err error) bool { return errors.As(err, new(*DamagedError)) }

const lockWait = time.Second

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const crcSize = 4

// checksum covers the key as well, so that a value under a wrong key is found too.
func checksum(key, body []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, key), castagnoli, body)
}

// seal prepends body's checksum.
func seal(key, body []byte) []byte {
	out := make([]byte, crcSize, crcSize+len(body))
	binary.BigEndian.PutUint32(out, checksum(key, body))
	return append(out, body...)
}

// unseal returns the body of a sealed value, which aliases v.
func unseal(key, v []byte) ([]byte, bool) {
	if len(v) < crcSize || binary.BigEndian.Uint32(v) != checksum(key, v[crcSize:]) {
		return nil, false
	}
	return v[crcSize:], true
}

func beKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// numberOf is the number that a key made by beKey stands for, even if its length was flipped; 0 for other keys.
func numberOf(key []byte) uint64 {
	if len(key) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key)
}

// guard turns the panics and memory faults with which bbolt answers bad pages into errors. A bad page may lie beyond the
// end of a cut file, which the mapping punishes with a fault.
func guard(path string, do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &DamagedError{Path: path, Detail: fmt.Sprint(p)}
		}
	}()
	return do()
}

// openFile opens a bbolt file that has the given buckets, making it first if there is none: under another name, fsynced and
// then renamed, so that a power cut never leaves half a file under the right name.
//
// whole is false when bbolt had to fall back to the file as it was before its last commit.
func openFile(path string, buckets ...[]byte) (db *bolt.DB, whole bool, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		// A kill between the two renamings of replaceFile has left it under its other name.
		if err = moveFile(path+nextSuffix, path); errors.Is(err, fs.ErrNotExist) {
			err = makeFile(path, func(tx *bolt.Tx) error { return makeBuckets(tx, buckets) })
		}
		if err != nil {
			return nil, false, err
		}
	}
	if whole, err = boltfile.Check(path, true); err != nil {
		return nil, false, fmt.Errorf("open %s: %w", filepath.Base(path), err)
	}
	err = guard(path, func() error {
		var err error
		if db, err = bolt.Open(path, 0o600, options()); err != nil {
			return err
		}
		return db.View(func(tx *bolt.Tx) error { return haveBuckets(path, tx, buckets) })
	})
	if err == nil {
		for _, left := range []string{path + nextSuffix, path + nextSuffix + newSuffix} {
			_ = os.Remove(left) // by a kill before the old file was moved away
		}
		return db, whole, nil
	}
	if db != nil {
		_ = guard(path, db.Close) // it may hold nothing that can be closed in order
	}
	return nil, false, fmt.Errorf("open %s: %w", filepath.Base(path), openError(path, err))
}

func haveBuckets(path string, tx *bolt.Tx, buckets [][]byte) error {
	for _, b := range buckets {
		if tx.Bucket(b) == nil {
			return &DamagedError{Path: path, Detail: fmt.Sprintf("it has no bucket %q", b)}
		}
	}
	return nil
}

func openError(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return ErrInUse
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return &DamagedError{Path: path, Detail: err.Error()}
	case errors.As(err, new(*fs.PathError)), errors.As(err, new(*DamagedError)), errors.As(err, new(syscall.Errno)):
		return err // what the machine cannot do now says nothing of the file
	}
	return &DamagedError{Path: path, Detail: err.Error()}
}

func options() *bolt.Options {
	return &bolt.Options{Timeout: lockWait, NoFreelistSync: true, FreelistType: bolt.FreelistMapType}
}

func makeBuckets(tx *bolt.Tx, buckets [][]byte) error {
	for _, b := range buckets {
		if _, err := tx.CreateBucketIfNotExists(b); err != nil {
			return fmt.Errorf("make bucket %q: %w", b, err)
		}
	}
	return nil
}

// update is db.Update for a file whose pages may turn out to be bad. When something panics in there, bbolt's own looks at all
// pages before it lets go of the file, in a goroutine where one more panic ends the process. A plain Rollback does not.
func update(db *bolt.DB, do func(tx *bolt.Tx) error) error {
	tx, err := db.Begin(true)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// makeFile writes a new bbolt file and puts it in the place of path in one step.
func makeFile(path string, fill func(tx *bolt.Tx) error) error {
	tmp := path + newSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make %s: %w", filepath.Base(path), err)
	}
	db, err := bolt.Open(tmp, 0o600, options())
	if err != nil {
		return fmt.Errorf("make %s: %w", filepath.Base(path), err)
	}
	err = errors.Join(guard(tmp, func() error { return update(db, fill) }), db.Sync(), db.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("make %s: %w", filepath.Base(path), err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// quarantine moves a file out of the way, into dir, and returns its new path. Nothing is ever deleted by it.
func quarantine(path, dir string, now time.Time) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("quarantine %s: %w", filepath.Base(path), err)
	}
	to := filepath.Join(dir, fmt.Sprintf("%s.%d", filepath.Base(path), now.UnixNano()))
	if err := os.Rename(path, to); err != nil {
		return "", fmt.Errorf("quarantine %s: %w", filepath.Base(path), err)
	}
	return to, errors.Join(syncDir(dir), syncDir(filepath.Dir(path)))
}

// moveFile renames and makes the renaming durable.
func moveFile(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

const (
	nextSuffix = ".next" // the name of what is about to take a file's place
	newSuffix  = ".new"  // the name of a file that is not whole yet
)

// replaceFile puts a new bbolt file in the place of path, and the old one into quarantine, where it is named old, or nowhere
// when dir is "". At no moment is neither of them to be found by openFile.
func replaceFile(path, dir string, now time.Time, fill func(tx *bolt.Tx) error) (old string, err error) {
	if err := makeFile(path+nextSuffix, fill); err != nil {
		return "", err
	}
	if dir != "" {
		if old, err = quarantine(path, dir, now); err != nil {
			return old, err
		}
	}
	return old, moveFile(path+nextSuffix, path)
}

// keepEvery is how often at most the original of a file that is only copied is kept: the copy has all that it had, and a disk
// that goes on failing must not fill itself.
const keepEvery = 24 * time.Hour

// keeping remembers when the original of a copied file was last kept. It belongs to the file's writer.
type keeping struct{ at time.Time }

// rewrite is rewriteFile, which keeps the original in dir once in keepEvery.
func (k *keeping) rewrite(path, dir string, now time.Time, buckets ...[]byte) error {
	if now.Sub(k.at) < keepEvery {
		dir = ""
	}
	old, err := rewriteFile(path, dir, now, buckets...)
	if old != "" {
		k.at = now
	}
	return err
}

// openDamaged opens a file to save what can be read of it: bbolt then looks neither for free pages nor at the order of keys.
func openDamaged(path string) (db *bolt.DB, err error) {
	if _, err := boltfile.Check(path, false); err != nil {
		return nil, fmt.Errorf("open %s: %w", filepath.Base(path), err)
	}
	opt := options()
	opt.ReadOnly = true
	err = guard(path, func() error {
		db, err = bolt.Open(path, 0o600, opt)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", filepath.Base(path), openError(path, err))
	}
	return db, nil
}

// rewriteFile copies a bbolt file into a new one and puts the old one into quarantine: after a failed fsync nobody knows
// which of its pages are on the disk, and the system may believe that all are. Keys that a flipped bit has brought out of
// order are in order again in the new one. The file must be closed; nothing is done with one that lacks a bucket.
func rewriteFile(path, dir string, now time.Time, buckets ...[]byte) (old string, err error) {
	db, err := openDamaged(path)
	if err != nil {
		return "", err
	}
	err = guard(path, func() error {
		old, err = replaceFile(path, dir, now, func(to *bolt.Tx) error {
			return db.View(func(from *bolt.Tx) error {
				if err := haveBuckets(path, from, buckets); err != nil {
					return err
				}
				return copyBuckets(from, to)
			})
		})
		return err
	})
	return old, errors.Join(err, guard(path, db.Close))
}

func copyBuckets(from, to *bolt.Tx) error {
	return from.ForEach(func(name []byte, b *bolt.Bucket) error {
		dst, err := to.CreateBucketIfNotExists(name)
		if err != nil {
			return err
		}
		dst.FillPercent = 1
		return b.ForEach(func(key, v []byte) error {
			if len(key) == 0 || len(key) > bolt.MaxKeySize {
				return nil // its length was flipped: it is nobody's
			}
			return dst.Put(key, v)
		})
	})
}

func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return nil
}
