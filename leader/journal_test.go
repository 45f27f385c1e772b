package leader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"pgregory.net/rapid"
)

// small are sizes with which a few entries of a hundred bytes fill a segment.
var small = journalSizes{from: 64, segment: 600, spares: 2, rows: 8, bytes: 1 << 20, every: time.Hour}

func openSmall(t rapid.TB, dir string) (*Store, *journal) {
	t.Helper()
	db, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, storeFile), NoSync: true}) // no power is cut here
	if err != nil {
		t.Fatal(err)
	}
	b, err := openJournal(dir, db, small)
	if err != nil {
		t.Fatal(err)
	}
	return newStore(b), b
}

// kill ends a journal as the end of its process does: nothing more is written.
func (j *journal) kill(t rapid.TB) {
	t.Helper()
	j.once.Do(func() { close(j.stop) })
	<-j.stopped
	if err := errors.Join(j.bolt.Close(), j.closeFiles()); err != nil {
		t.Fatal(err)
	}
}

// sized is an entry with n bytes that no other one has.
func sized(index uint64, n int) *raft.Log {
	data := make([]byte, n)
	binary.BigEndian.PutUint64(data, rand.Uint64())
	for i := 8; i < n; i++ {
		data[i] = data[i-8] + 1
	}
	return &raft.Log{Index: index, Term: 2, Type: raft.LogCommand, Data: data}
}

func storeAll(t rapid.TB, s *Store, logs ...*raft.Log) {
	t.Helper()
	if err := s.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
}

// holds says that the store has these entries and no others.
func holds(t rapid.TB, s *Store, want []*raft.Log) {
	t.Helper()
	first, err1 := s.FirstIndex()
	last, err2 := s.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if len(want) == 0 {
		if first != 0 || last != 0 {
			t.Fatalf("entries %d to %d, want none", first, last)
		}
		return
	}
	if first != want[0].Index || last != want[len(want)-1].Index {
		t.Fatalf("entries %d to %d, want %d to %d", first, last, want[0].Index, want[len(want)-1].Index)
	}
	for _, w := range want {
		var l raft.Log
		if err := s.GetLog(w.Index, &l); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(l.Data, w.Data) || l.Term != w.Term || l.Type != w.Type || !bytes.Equal(l.Extensions, w.Extensions) {
			t.Fatalf("entry %d is another one", w.Index)
		}
	}
	if err := s.Verify(); err != nil {
		t.Fatal(err)
	}
}

func segmentFiles(t rapid.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, journalFolder, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Whatever is stored, cut off at either end and opened again, the log is the one that a list would be, and the files stay
// as few as its entries need.
func TestJournalIsAList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "journal")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		s, b := openSmall(t, dir)
		defer func() { _ = s.Close() }()
		var model []*raft.Log
		next, term := uint64(1), uint64(1)
		t.Repeat(map[string]func(*rapid.T){
			"store": func(t *rapid.T) {
				var logs []*raft.Log
				for range rapid.IntRange(1, 5).Draw(t, "entries") {
					l := sized(next, rapid.IntRange(8, 450).Draw(t, "bytes"))
					l.Term = term
					logs, next = append(logs, l), next+1
				}
				storeAll(t, s, logs...)
				model = append(model, logs...)
			},
			"drop the front": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip("nothing is there")
				}
				n := rapid.IntRange(1, len(model)).Draw(t, "entries")
				if err := s.DeleteRange(model[0].Index, model[n-1].Index); err != nil {
					t.Fatal(err)
				}
				model = model[n:]
			},
			"drop the end": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip("nothing is there")
				}
				n := rapid.IntRange(0, len(model)-1).Draw(t, "kept")
				if err := s.DeleteRange(model[n].Index, next-1); err != nil {
					t.Fatal(err)
				}
				next, term, model = model[n].Index, term+1, model[:n]
			},
			"open again": func(t *rapid.T) {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s, b = openSmall(t, dir)
			},
			"kill": func(t *rapid.T) {
				b.kill(t)
				s, b = openSmall(t, dir)
			},
			"file": func(t *rapid.T) {
				if err := b.file(); err != nil {
					t.Fatal(err)
				}
			},
			"fail": func(t *rapid.T) {
				// Of entries that are not stored some may come back after a kill, but never behind others that were stored since.
				b.sync = func(f *os.File) error {
					if rapid.Bool().Draw(t, "synced") {
						return syncData(f)
					}
					return errPower
				}
				var logs []*raft.Log
				for i := range uint64(rapid.IntRange(1, 5).Draw(t, "entries")) {
					l := sized(next+i, rapid.IntRange(8, 450).Draw(t, "bytes"))
					l.Term = term
					logs = append(logs, l)
				}
				err := s.StoreLogs(logs)
				b.sync = syncData
				l := sized(next, 20)
				if l.Term = term; err == nil {
					model, next = append(model, logs...), next+uint64(len(logs))
					return
				}
				term++
				storeAll(t, s, l)
				model, next = append(model, l), next+1
			},
			"": func(t *rapid.T) {
				holds(t, s, model)
				b.mu.Lock()
				defer b.mu.Unlock()
				b.sweep()
				waits := 0
				for _, l := range model {
					kept := b.byIndex[l.Index]
					if kept != nil {
						waits++
					} else if kept = new(raft.Log); b.bolt.GetLog(l.Index, kept) != nil {
						t.Fatalf("entry %d is nowhere", l.Index)
					}
					if outside(kept) != (len(l.Data) >= small.from) {
						t.Fatalf("entry %d of %d bytes is kept as %+v", l.Index, len(l.Data), kept)
					}
				}
				if waits != len(b.waiting) || waits != len(b.byIndex) {
					t.Fatalf("%d entries wait, %d and %d are known", waits, len(b.waiting), len(b.byIndex))
				}
				empty := 0
				for _, g := range b.segments {
					if g.last == 0 && g.seq <= b.told {
						empty++
					} else if g.last != 0 && (len(model) == 0 || g.last < model[0].Index || g.first >= next) {
						t.Fatalf("segment %d is kept for entries %d to %d, which are gone", g.number, g.first, g.last)
					}
				}
				if files := len(segmentFiles(t, dir)); files != len(b.segments) || empty > small.spares+1 {
					t.Fatalf("%d files, %d known, %d empty", files, len(b.segments), empty)
				}
			},
		})
	})
}

// A segment that is written over too early is noticed: the deliberately broken variant of the bookkeeping.
func TestJournalNoticesASegmentWrittenOver(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]bool{"as it is": false, "taken for empty": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, b := openSmall(t, t.TempDir())
			defer s.Close()
			var logs []*raft.Log
			for i := uint64(1); i <= 4; i++ { // three fill a segment
				logs = append(logs, sized(i, 120))
				storeAll(t, s, logs[i-1])
			}
			if broken {
				b.mu.Lock()
				one := b.segments[1]
				one.first, one.last, one.seq = 0, 0, 0
				b.sweep()
				b.mu.Unlock()
			}
			for i := uint64(5); i <= 9; i++ {
				logs = append(logs, sized(i, 120))
				storeAll(t, s, logs[i-1])
			}
			if !broken {
				holds(t, s, logs)
				return
			}
			if err := s.GetLog(1, new(raft.Log)); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestJournalFlippedByteIsCaught(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, _ := openSmall(t, dir)
	storeAll(t, s, sized(1, 100), sized(2, 100), sized(3, 20))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file := segmentFiles(t, dir)[0]
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[headBytes+2*(headBytes+checksumBytes)+100+rand.IntN(100)] ^= 1 << rand.IntN(8)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, without := openSmall(t, dir)
	defer s.Close()
	if err := without.GetLog(2, new(raft.Log)); err != nil {
		t.Fatalf("it is noticed without the store's checksum: %v", err)
	}
	if err := s.GetLog(2, new(raft.Log)); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("got %v", err)
	}
	if err := s.Verify(); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("verify: %v", err)
	}
	for _, i := range []uint64{1, 3} {
		if err := s.GetLog(i, new(raft.Log)); err != nil {
			t.Fatalf("its neighbour %d: %v", i, err)
		}
	}
}

// What is gone or cut with a position is as bad as what is altered, and says so; it neither panics nor asks for memory that a
// damaged position names.
func TestJournalWithoutItsFile(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, dir string){
		"wrong position": func(t *testing.T, dir string) { moved(t, dir, position{1, 100, 4}.bytes()) },
		"no position":    func(t *testing.T, dir string) { moved(t, dir, []byte("short")) },
		"endless":        func(t *testing.T, dir string) { moved(t, dir, position{1, 1<<32 - 1, 0}.bytes()) },
		"before the beginning": func(t *testing.T, dir string) {
			moved(t, dir, position{1, 100, -8}.bytes())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s, _ := openSmall(t, dir)
			storeAll(t, s, sized(1, 100), sized(2, 20))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			harm(t, dir)
			s, _ = openSmall(t, dir)
			defer s.Close()
			if err := s.GetLog(1, new(raft.Log)); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("got %v", err)
			}
			if err := s.GetLog(2, new(raft.Log)); err != nil {
				t.Fatalf("its neighbour: %v", err)
			}
			storeAll(t, s, sized(3, 100))
			if err := s.GetLog(3, new(raft.Log)); err != nil {
				t.Fatalf("what is stored afterwards: %v", err)
			}
		})
	}
}

// A journal that is gone, or ends before what raft.db knows of it, took something with it that raft.db may lack.
func TestJournalThatIsGoneIsMissed(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, dir string){
		"segment gone": func(t *testing.T, dir string) {
			if err := os.Remove(segmentFiles(t, dir)[0]); err != nil {
				t.Fatal(err)
			}
		},
		"segment cut": func(t *testing.T, dir string) {
			if err := os.Truncate(segmentFiles(t, dir)[0], 50); err != nil {
				t.Fatal(err)
			}
		},
		"folder gone": func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, journalFolder)); err != nil {
				t.Fatal(err)
			}
		},
		"journal gone": func(t *testing.T, dir string) {
			for _, f := range segmentFiles(t, dir) {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
		},
		"older journal": func(t *testing.T, dir string) {
			for _, f := range segmentFiles(t, dir) {
				if err := os.Rename(filepath.Join(dir, "older", filepath.Base(f)), f); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s, j := openSmall(t, dir)
			storeAll(t, s, sized(1, 20))
			if err := os.CopyFS(filepath.Join(dir, "older"), os.DirFS(filepath.Join(dir, journalFolder))); err != nil {
				t.Fatal(err)
			}
			storeAll(t, s, sized(2, 20))
			if err := j.file(); err != nil {
				t.Fatal(err)
			}
			storeAll(t, s, sized(3, 100)) // raft.db does not have it
			j.kill(t)
			harm(t, dir)
			db, err := openBolt(filepath.Join(dir, storeFile))
			if err != nil {
				t.Fatal(err)
			}
			if _, err = openJournal(dir, db, small); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("got %v", err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Builds before this one kept the data of large entries, and nothing else, in a folder of another name.
func TestJournalTakesOverTheFormerFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := sized(1, 100)
	l.Extensions = newStore(nil).seal(l)
	row := *l
	row.Data, row.Extensions = position{1, 100, 0}.bytes(), append([]byte{outsideMark}, l.Extensions[1:]...)
	db, err := openBolt(filepath.Join(dir, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.StoreLog(&row), db.Close(), os.Mkdir(filepath.Join(dir, formerFolder), 0o700),
		os.WriteFile(filepath.Join(dir, formerFolder, "00000001"), l.Data, 0o600)); err != nil {
		t.Fatal(err)
	}
	logs := []*raft.Log{l}
	for i := uint64(2); i < 5; i++ {
		s, _ := openSmall(t, dir)
		logs = append(logs, sized(i, 400))
		storeAll(t, s, logs[i-1])
		holds(t, s, logs)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// moved gives entry 1 another position.
func moved(t *testing.T, dir string, to []byte) {
	t.Helper()
	db, err := openBolt(filepath.Join(dir, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	var l raft.Log
	if err := db.GetLog(1, &l); err != nil {
		t.Fatal(err)
	}
	l.Data = to
	if err := errors.Join(db.StoreLog(&l), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// Who reads an entry while the log is cut and its segment written over gets the entry, or none.
func TestJournalReadersMeetWriters(t *testing.T) {
	t.Parallel()
	s, _ := openSmall(t, t.TempDir())
	defer s.Close()
	var mu sync.Mutex
	data := map[uint64][]byte{}
	over := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				first, err := s.FirstIndex()
				if err != nil {
					t.Error(err)
					return
				}
				for i := first; i < first+8; i++ {
					var l raft.Log
					switch err := s.GetLog(i, &l); {
					case errors.Is(err, raft.ErrLogNotFound):
						continue
					case err != nil:
						t.Error(err)
						return
					}
					mu.Lock()
					same := bytes.Equal(l.Data, data[i])
					mu.Unlock()
					if !same {
						t.Errorf("entry %d is another one", i)
						return
					}
				}
			}
		})
	}
	for i := uint64(1); i <= 300; i++ {
		l := sized(i, 70+int(i%60))
		mu.Lock()
		data[i] = l.Data
		mu.Unlock()
		storeAll(t, s, l)
		if i%6 == 0 {
			if err := s.DeleteRange(i-5, i-2); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(over)
	readers.Wait()
}

func TestPositionIsReadAsWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := position{rapid.Uint32().Draw(t, "segment"), rapid.Uint32().Draw(t, "length"), rapid.Int64Min(0).Draw(t, "offset")}
		if got, ok := readPosition(want.bytes()); !ok || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, %v, want %+v", got, ok, want)
		}
	})
}
