package state

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	stdhash "hash"
	"io"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// A snapshot is the canonical form of a state: a magic line with the format version, then sections. A section is the length
// of its name, its name, its number of rows, and per row the lengths and bytes of key and JSON value; all numbers are
// uvarints. Sections come in a fixed order and rows in order of key, and the SHA-256 of everything before it ends the file.
const snapshotMagic = "ringagent-state 1\n"

// maxRow bounds what a damaged length can make ReadSnapshot allocate.
const maxRow = 64 << 20

// ErrBadSnapshot is returned for bytes that are no whole and unaltered snapshot of a known format.
var ErrBadSnapshot = errors.New("bad snapshot of the replicated state")

// WriteSnapshot writes s in its canonical form. It may run while the machine goes on.
func WriteSnapshot(w io.Writer, s *State) error {
	sum := sha256.New()
	b := bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10)
	if err := writeBody(b, s); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// Digest is the SHA-256 of the canonical form in hex: equal for equal states, whichever way they came about.
func Digest(s *State) string {
	sum := sha256.New()
	b := bufio.NewWriterSize(sum, 64<<10)
	if err := writeBody(b, s); err != nil {
		// Writing to a hash cannot fail and every row was decoded from JSON, so it can be encoded.
		return "unencodable: " + err.Error()
	}
	_ = b.Flush()
	return hex.EncodeToString(sum.Sum(nil))
}

// section is one table of a snapshot.
type section struct {
	name  string
	write func(*bufio.Writer, *State) error
	read  func(s *State, key string, value []byte) error
}

// sections is the order of the format; new ones are added at the end, and a missing one is an empty table.
func sections() []section {
	return []section{
		single("meta", func(s *State) *meta { return &s.meta }),
		single("settings", func(s *State) *ring.Settings { return &s.settings }),
		rows("members", func(s *State) *table[memberRow] { return &s.members }, nil),
		rows("revoked", func(s *State) *table[ring.Revocation] { return &s.revoked },
			func(s *State, _ string, r ring.Revocation) { s.badKeys.put(r.KeyHash, r.Node) }),
		rows("tokens", func(s *State) *table[ring.Token] { return &s.tokens }, nil),
		rows("assignments", func(s *State) *table[ring.Assignment] { return &s.assignments }, nil),
		rows("off", func(s *State) *table[bool] { return &s.off }, nil),
		rows("work", func(s *State) *table[workRow] { return &s.work }, func(s *State, k string, r workRow) {
			s.work.del(k)
			s.putWork(r)
		}),
		rows("tombstones", func(s *State) *table[tombstone] { return &s.tombstones },
			func(s *State, k string, ts tombstone) { s.putTombstone(k, ts) }),
		rows("artifacts", func(s *State) *table[artifactRow] { return &s.artifacts },
			func(s *State, _ string, r artifactRow) {
				a := r.artifact()
				s.byKind.put(kindKey(a), kindRowOf(a))
				s.noteOpen(a)
			}),
		rows("names", func(s *State) *table[ring.Name] { return &s.names }, nil),
		rows("positions", func(s *State) *table[ring.Position] { return &s.positions }, nil),
		rows("notes", func(s *State) *table[ring.Note] { return &s.notes }, func(s *State, _ string, n ring.Note) {
			used, _ := s.notesBytes.get(n.Daemon)
			s.notesBytes.put(n.Daemon, used+len(n.Key)+len(n.Value))
		}),
		rows("letters", func(s *State) *table[ring.DeadLetter] { return &s.letters }, nil),
		rows("origins", func(s *State) *table[originRow] { return &s.origins }, nil),
		rows("once", func(s *State) *table[onceRow] { return &s.once },
			func(s *State, k string, r onceRow) { s.onceOrder.put(ordered(r.Order), k) }),
		// The newest bearer of a name cannot be told from the members alone: it is kept.
		rows("bearers", func(s *State) *table[id.Node] { return &s.nameIndex }, nil),
	}
}

// single is a section of one row.
func single[T any](name string, at func(*State) *T) section {
	return section{
		name: name,
		write: func(w *bufio.Writer, s *State) error {
			writeUvarint(w, 1)
			return writeRow(w, "", at(s))
		},
		read: func(s *State, _ string, value []byte) error { return unmarshal(value, at(s)) },
	}
}

// rows is a table's section. also, if there is one, derives what hangs on a row that was read.
func rows[T any](name string, at func(*State) *table[T], also func(*State, string, T)) section {
	return section{
		name: name,
		write: func(w *bufio.Writer, s *State) error {
			t := at(s)
			writeUvarint(w, uint64(t.len()))
			for k, v := range t.all() {
				if err := writeRow(w, k, &v); err != nil {
					return fmt.Errorf("%s %q: %w", name, k, err)
				}
			}
			return nil
		},
		read: func(s *State, key string, value []byte) error {
			var v T
			if err := unmarshal(value, &v); err != nil {
				return err
			}
			at(s).put(key, v)
			if also != nil {
				also(s, key, v)
			}
			return nil
		},
	}
}

func writeBody(w *bufio.Writer, s *State) error {
	if _, err := w.WriteString(snapshotMagic); err != nil {
		return err
	}
	list := sections()
	writeUvarint(w, uint64(len(list)))
	for _, sec := range list {
		writeUvarint(w, uint64(len(sec.name)))
		_, _ = w.WriteString(sec.name) // a bufio.Writer keeps its first error until Flush
		if err := sec.write(w, s); err != nil {
			return err
		}
	}
	return nil
}

func writeUvarint(w *bufio.Writer, n uint64) {
	var b [binary.MaxVarintLen64]byte
	_, _ = w.Write(binary.AppendUvarint(b[:0], n))
}

func writeRow(w *bufio.Writer, key string, v any) error {
	b, err := marshal(v)
	if err != nil {
		return err
	}
	writeUvarint(w, uint64(len(key)))
	_, _ = w.WriteString(key)
	writeUvarint(w, uint64(len(b)))
	_, err = w.Write(b)
	return err
}

// ReadSnapshot reads what WriteSnapshot wrote, to its end. Anything else is ErrBadSnapshot.
func ReadSnapshot(r io.Reader) (*State, error) {
	in := &summed{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	s, err := readBody(in)
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w: %w", ErrBadSnapshot, err)
	}
	want := in.sum.Sum(nil)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(in.r, got); err != nil {
		return nil, fmt.Errorf("read snapshot: %w: checksum: %w", ErrBadSnapshot, err)
	}
	if !bytes.Equal(got, want) {
		return nil, fmt.Errorf("read snapshot: %w: checksum differs", ErrBadSnapshot)
	}
	if _, err := in.r.ReadByte(); err != io.EOF {
		return nil, fmt.Errorf("read snapshot: %w: bytes after the end", ErrBadSnapshot)
	}
	return s, nil
}

func readBody(in *summed) (*State, error) {
	magic := make([]byte, len(snapshotMagic))
	if err := in.full(magic); err != nil {
		return nil, err
	}
	if string(magic) != snapshotMagic {
		return nil, fmt.Errorf("format %q is unknown", magic)
	}
	known := make(map[string]section)
	for _, sec := range sections() {
		known[sec.name] = sec
	}
	s := emptyState()
	n, err := in.uvarint()
	if err != nil {
		return nil, err
	}
	for range n {
		name, err := in.bytes()
		if err != nil {
			return nil, err
		}
		sec, ok := known[string(name)]
		if !ok {
			return nil, fmt.Errorf("section %q is unknown", name)
		}
		if err := readSection(in, sec, s); err != nil {
			return nil, fmt.Errorf("section %s: %w", name, err)
		}
	}
	s.share()
	return s, nil
}

func readSection(in *summed, sec section, s *State) error {
	n, err := in.uvarint()
	if err != nil {
		return err
	}
	for range n {
		key, err := in.bytes()
		if err != nil {
			return err
		}
		value, err := in.bytes()
		if err != nil {
			return err
		}
		if !json.Valid(value) {
			return fmt.Errorf("row %q is damaged", key)
		}
		if err := sec.read(s, string(key), value); err != nil {
			return fmt.Errorf("row %q: %w", key, err)
		}
	}
	return nil
}

// summed adds what was taken from r, and only that, to sum.
type summed struct {
	r   *bufio.Reader
	sum stdhash.Hash
	one [1]byte
}

func (s *summed) full(b []byte) error {
	if _, err := io.ReadFull(s.r, b); err != nil {
		return err
	}
	s.sum.Write(b)
	return nil
}

// ReadByte serves binary.ReadUvarint.
func (s *summed) ReadByte() (byte, error) {
	err := s.full(s.one[:])
	return s.one[0], err
}

func (s *summed) uvarint() (uint64, error) { return binary.ReadUvarint(s) }

func (s *summed) bytes() ([]byte, error) {
	n, err := s.uvarint()
	if err != nil {
		return nil, err
	}
	if n > maxRow {
		return nil, fmt.Errorf("row of %d bytes", n)
	}
	b := make([]byte, n)
	return b, s.full(b)
}
