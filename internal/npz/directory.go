package npz

import (
	"archive/zip"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Bounds on a file that is opened.
const (
	maxTotal     = 8 << 30 // all arrays together, unpacked
	maxRatio     = 1000    // unpacked to packed, for the whole file
	ratioFrom    = 1 << 20 // small files may be as hollow as they like
	maxDirectory = maxArrays * 1024

	endSize       = 22
	end64Size     = 56
	locator64Size = 20
)

// checkLayout parses the end of the zip by itself, before archive/zip allocates anything: the directory must be where it is
// said to be, of modest size, and end the file. Nothing may follow, and there is only one.
func checkLayout(r io.ReaderAt, size int64) (dirOffset int64, err error) {
	bad := func(format string, args ...any) (int64, error) {
		return 0, fmt.Errorf(format+": %w", append(args, ErrInvalid)...)
	}
	if size < endSize {
		return bad("%d bytes are no zip file", size)
	}
	var end [endSize]byte
	if _, err := r.ReadAt(end[:], size-endSize); err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	if le.Uint32(end[:]) != 0x06054b50 || le.Uint16(end[20:]) != 0 {
		return bad("the file does not end with a zip directory")
	}
	if le.Uint16(end[4:]) != 0 || le.Uint16(end[6:]) != 0 || le.Uint16(end[8:]) != le.Uint16(end[10:]) {
		return bad("the zip has several parts")
	}
	count, dirSize, offset := uint64(le.Uint16(end[10:])), uint64(le.Uint32(end[12:])), uint64(le.Uint32(end[16:]))
	dirEnd := uint64(size - endSize)
	if count == 0xffff || dirSize == 0xffffffff || offset == 0xffffffff {
		if dirEnd < locator64Size+end64Size {
			return bad("the zip's 64-bit directory is missing")
		}
		var tail [end64Size + locator64Size]byte
		dirEnd -= uint64(len(tail))
		if _, err := r.ReadAt(tail[:], int64(dirEnd)); err != nil {
			return 0, err
		}
		locator := tail[end64Size:]
		if le.Uint32(tail[:]) != 0x06064b50 || le.Uint64(tail[4:]) != end64Size-12 ||
			le.Uint32(locator) != 0x07064b50 || le.Uint64(locator[8:]) != dirEnd {
			return bad("the zip's 64-bit directory is damaged")
		}
		count, dirSize, offset = le.Uint64(tail[32:]), le.Uint64(tail[40:]), le.Uint64(tail[48:])
	}
	if count == 0 || count > maxArrays || dirSize > maxDirectory {
		return bad("%d members in a directory of %d bytes", count, dirSize)
	}
	if offset > dirEnd || dirEnd-offset != dirSize {
		return bad("the zip directory is not where the file says")
	}
	return int64(offset), nil
}

// checkMembers checks what archive/zip has read from the directory against the file: members tile the space before the
// directory without overlap, names are plain and distinct, and the sizes are within bounds.
func checkMembers(r io.ReaderAt, size, dirOffset int64, files []*zip.File) error {
	names := make(map[string]bool, len(files))
	var total uint64
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name, ".npy")
		switch {
		case !ok || !arrayName.MatchString(name):
			return fmt.Errorf("member %.80q: %w", f.Name, ErrInvalid)
		case names[strings.ToLower(name)]:
			return fmt.Errorf("member %q twice: %w", f.Name, ErrInvalid)
		case f.Flags&(1|1<<5|1<<6|1<<13) != 0:
			return fmt.Errorf("member %q is encrypted or patched: %w", f.Name, ErrInvalid)
		case f.Method != zip.Store && f.Method != zip.Deflate:
			return fmt.Errorf("member %q is packed by method %d: %w", f.Name, f.Method, ErrInvalid)
		case f.UncompressedSize64 > maxTotal || f.CompressedSize64 > uint64(size):
			return fmt.Errorf("member %q has %d bytes: %w", f.Name, f.UncompressedSize64, ErrInvalid)
		case f.Method == zip.Store && f.CompressedSize64 != f.UncompressedSize64:
			return fmt.Errorf("member %q has two sizes: %w", f.Name, ErrInvalid)
		}
		names[strings.ToLower(name)] = true
		if total += f.UncompressedSize64; total > maxTotal {
			return fmt.Errorf("more than %d bytes of arrays: %w", maxTotal, ErrInvalid)
		}
	}
	if total > ratioFrom && total/uint64(size) >= maxRatio {
		return fmt.Errorf("%d bytes unpack to %d: %w", size, total, ErrInvalid)
	}
	return checkTiling(r, dirOffset, files)
}

type extent struct{ from, to int64 }

func checkTiling(r io.ReaderAt, dirOffset int64, files []*zip.File) error {
	spans := make([]extent, 0, len(files))
	for _, f := range files {
		start, err := f.DataOffset()
		if err != nil {
			return fmt.Errorf("member %q: %w: %w", f.Name, ErrInvalid, err)
		}
		from, err := localStart(r, f, start)
		if err != nil {
			return err
		}
		spans = append(spans, extent{from, start + int64(f.CompressedSize64)})
	}
	slices.SortFunc(spans, func(a, b extent) int { return int(min(max(a.from-b.from, -1), 1)) })
	at := int64(0)
	for _, s := range append(spans, extent{from: dirOffset}) {
		// A streamed member is followed by a descriptor of its sizes, 24 bytes at most.
		if s.from < at || s.from > at+24 || (at == 0 && s.from != 0) {
			return fmt.Errorf("members overlap or leave %d bytes between them: %w", s.from-at, ErrInvalid)
		}
		at = s.to
	}
	return nil
}

// localStart finds where a member's own header begins, given where its data do, and checks that it carries the same name.
func localStart(r io.ReaderAt, f *zip.File, data int64) (int64, error) {
	// archive/zip skips the local name and extra field by the lengths in the local header but does not tell where that is.
	// Extra fields are short, so look for the header from the data backwards.
	const fixed, most = 30, 30 + 68 + 256
	from := max(data-most, 0)
	b := make([]byte, data-from)
	if _, err := r.ReadAt(b, from); err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	for i := len(b) - fixed - len(f.Name); i >= 0; i-- {
		h := b[i:]
		if le.Uint32(h) == 0x04034b50 && fixed+int(le.Uint16(h[26:]))+int(le.Uint16(h[28:])) == len(h) &&
			int(le.Uint16(h[26:])) == len(f.Name) && string(h[fixed:fixed+len(f.Name)]) == f.Name && le.Uint16(h[8:]) == f.Method {
			return from + int64(i), nil
		}
	}
	return 0, fmt.Errorf("member %q has no header of its own: %w", f.Name, ErrInvalid)
}
