package boltfile

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Check reads the skeleton of a bbolt file's pages before bbolt does. bbolt looks for free pages when it opens a file,
// in a goroutine of its own, where a bad page number or a cut file ends the process and nobody can recover. What passes
// here can still be damaged, but then bbolt fails in the caller's goroutine.
//
// So does a key out of order, which costs bbolt nothing but the file: with order false it is let pass, and everything can be read
// from one end to the other.
//
// whole is false when one of the file's two heads is bad. bbolt then takes the other without a word, and with it the file as
// it was one commit earlier.
func Check(path string, order bool) (whole bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	// Somebody else's file changes while it is read.
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return false, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
		return false, ErrInUse
	}
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	p := pages{f: f, size: uint64(info.Size()), seen: map[uint64]bool{}}
	err = p.check()
	if err == nil && order {
		err = p.disorder
	}
	if err == nil || errors.As(err, new(*fs.PathError)) {
		return p.heads == 2, err
	}
	return false, &DamagedError{Path: path, Detail: err.Error()}
}

// ErrInUse says that another process has the file open.
var ErrInUse = errors.New("file is in use by another process")

// DamagedError says that a file cannot be trusted any more.
type DamagedError struct {
	Path   string
	Detail string
}

func (e *DamagedError) Error() string { return fmt.Sprintf("damaged file %s: %s", e.Path, e.Detail) }

// Figures of bbolt's file format, version 2.
const (
	boltMagic     = 0xED0CDAED
	boltVersion   = 2
	pageHeader    = 16 // id, flags, count, overflow
	pageElement   = 16 // of a leaf or a branch
	metaLen       = 64 // with its checksum
	flagBranch    = 0x01
	flagLeaf      = 0x02
	flagBucket    = 0x01 // of a leaf's element
	bucketHeader  = 16   // root page, sequence; an inline page follows when root is 0
	deepestBucket = 4
)

var native = binary.NativeEndian

// pages walks the tree of a file.
type pages struct {
	f        io.ReaderAt
	size     uint64
	pageSize uint64
	high     uint64 // pages from here on are not in use
	seen     map[uint64]bool
	heads    int   // valid ones
	disorder error // the first key that is out of order
}

func (p *pages) check() error {
	root, err := p.meta()
	if err != nil {
		return err
	}
	if p.high*p.pageSize > p.size {
		return fmt.Errorf("the file is cut: %d bytes instead of %d", p.size, p.high*p.pageSize)
	}
	return p.page(root, 0, nil, nil)
}

// meta picks the newer of the two valid heads, as bbolt does.
func (p *pages) meta() (root uint64, err error) {
	var newest uint64
	var disk error // says nothing of the file
	take := func(at int64) bool {
		b := make([]byte, pageHeader+metaLen)
		if _, err := p.f.ReadAt(b, at); err != nil {
			if errors.As(err, new(*fs.PathError)) {
				disk = err
			}
			return false
		}
		m := b[pageHeader:]
		sum := fnv.New64a()
		sum.Write(m[:metaLen-8])
		if native.Uint32(m) != boltMagic || native.Uint32(m[4:]) != boltVersion || native.Uint64(m[metaLen-8:]) != sum.Sum64() {
			return false
		}
		p.heads++
		if tx := native.Uint64(m[48:]); p.pageSize == 0 || tx > newest {
			newest = tx
			p.pageSize, root, p.high = uint64(native.Uint32(m[8:])), native.Uint64(m[16:]), native.Uint64(m[40:])
		}
		return true
	}
	if take(0) {
		take(int64(p.pageSize))
	} else {
		// The first head is gone, and with it the page size: the second lies at one of these places.
		for at := int64(1024); at <= 64<<10 && !take(at); at *= 2 {
		}
	}
	if disk != nil {
		return 0, disk
	}
	if p.pageSize < 512 || p.pageSize > 1<<20 {
		return 0, errors.New("it has no valid head")
	}
	return root, nil
}

// ordered looks at a key: it must lie above the one before, or be low if it is the page's first, and below high. nil is no bound.
func (p *pages) ordered(id uint64, i uint64, key, before, low, high []byte) {
	if i == 0 && bytes.Compare(key, low) < 0 || i > 0 && bytes.Compare(key, before) <= 0 || high != nil && bytes.Compare(key, high) >= 0 {
		p.disorder = cmp.Or(p.disorder, fmt.Errorf("page %d: key %d is out of order", id, i))
	}
}

// page looks at a page whose keys are not below low, and below high unless that is nil.
func (p *pages) page(id uint64, depth int, low, high []byte) error {
	switch {
	case id < 2 || id >= p.high:
		return fmt.Errorf("page %d is none of its %d pages", id, p.high)
	case p.seen[id]:
		return fmt.Errorf("page %d is used twice", id)
	}
	b := make([]byte, p.pageSize)
	if _, err := p.f.ReadAt(b, int64(id*p.pageSize)); err != nil {
		return fmt.Errorf("page %d cannot be read: %w", id, err)
	}
	flags, count, overflow := native.Uint16(b[8:]), uint64(native.Uint16(b[10:])), uint64(native.Uint32(b[12:]))
	switch {
	case native.Uint64(b) != id:
		return fmt.Errorf("page %d says that it is page %d", id, native.Uint64(b))
	case flags != flagBranch && flags != flagLeaf:
		return fmt.Errorf("page %d is of kind %#x", id, flags)
	case id+overflow >= p.high:
		return fmt.Errorf("page %d goes on beyond the end", id)
	}
	for i := uint64(0); i <= overflow; i++ {
		if p.seen[id+i] {
			return fmt.Errorf("page %d is used twice", id+i)
		}
		p.seen[id+i] = true
	}
	if overflow > 0 {
		b = make([]byte, (overflow+1)*p.pageSize)
		if _, err := p.f.ReadAt(b, int64(id*p.pageSize)); err != nil {
			return fmt.Errorf("page %d cannot be read: %w", id, err)
		}
	}
	if flags == flagBranch {
		return p.branch(id, b, count, depth, low, high)
	}
	return p.leaf(id, b, count, depth, low, high)
}

func (p *pages) branch(id uint64, b []byte, count uint64, depth int, low, high []byte) error {
	if count == 0 || pageHeader+count*pageElement > uint64(len(b)) {
		return fmt.Errorf("page %d claims %d elements", id, count)
	}
	keys := make([][]byte, count+1)
	for i := range count {
		at := pageHeader + i*pageElement
		pos, ksize := uint64(native.Uint32(b[at:])), uint64(native.Uint32(b[at+4:]))
		if at+pos+ksize > uint64(len(b)) {
			return fmt.Errorf("page %d: element %d lies outside", id, i)
		}
		keys[i] = b[at+pos : at+pos+ksize]
		p.ordered(id, i, keys[i], keys[max(i, 1)-1], low, high)
	}
	keys[count] = high
	for i := range count {
		if err := p.page(native.Uint64(b[pageHeader+i*pageElement+8:]), depth, keys[i], keys[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (p *pages) leaf(id uint64, b []byte, count uint64, depth int, low, high []byte) error {
	if pageHeader+count*pageElement > uint64(len(b)) {
		return fmt.Errorf("page %d claims %d elements", id, count)
	}
	var before []byte
	for i := range count {
		at := pageHeader + i*pageElement
		flags := native.Uint32(b[at:])
		pos, ksize, vsize := uint64(native.Uint32(b[at+4:])), uint64(native.Uint32(b[at+8:])), uint64(native.Uint32(b[at+12:]))
		if at+pos+ksize+vsize > uint64(len(b)) {
			return fmt.Errorf("page %d: element %d lies outside", id, i)
		}
		key := b[at+pos : at+pos+ksize]
		p.ordered(id, i, key, before, low, high)
		before = key
		if flags&flagBucket == 0 {
			continue
		}
		v := b[at+pos+ksize : at+pos+ksize+vsize]
		if len(v) < bucketHeader || depth >= deepestBucket {
			return fmt.Errorf("page %d: element %d is no bucket", id, i)
		}
		var err error
		if root := native.Uint64(v); root != 0 {
			err = p.page(root, depth+1, nil, nil)
		} else if inline := v[bucketHeader:]; len(inline) < pageHeader {
			err = fmt.Errorf("page %d: element %d is no bucket", id, i)
		} else {
			err = p.leaf(id, inline, uint64(native.Uint16(inline[10:])), depth+1, nil, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
