package leader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

func entry(i uint64) *raft.Log {
	return &raft.Log{Index: i, Term: 3, Type: raft.LogCommand, Data: bytes.Repeat([]byte{byte(i), 0xa5, 0x5a}, 40)}
}

func openFilled(t *testing.T, dir string, n uint64) *Store {
	t.Helper()
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= n; i++ {
		if err := s.StoreLog(entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// flip changes one byte of every stored copy of an entry's data (bbolt keeps older pages).
func flip(t *testing.T, dir string, index uint64) {
	t.Helper()
	path := filepath.Join(dir, storeFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data := entry(index).Data
	hits := 0
	for at := 0; ; {
		i := bytes.Index(b[at:], data)
		if i < 0 {
			break
		}
		b[at+i+rand.IntN(len(data))] ^= 1 << rand.IntN(8)
		at, hits = at+i+1, hits+1
	}
	if hits == 0 {
		t.Fatal("the entry is not in the file")
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFlippedByteIsCaught(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := openFilled(t, dir, 20).Close(); err != nil {
		t.Fatal(err)
	}
	flip(t, dir, 7)

	t.Run("without the check it passes", func(t *testing.T) {
		db, err := openBolt(filepath.Join(dir, storeFile))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var l raft.Log
		if err := db.GetLog(7, &l); err != nil {
			t.Fatalf("raft-boltdb notices by itself: %v", err)
		}
		if bytes.Equal(l.Data, entry(7).Data) {
			t.Fatal("the flip changed nothing")
		}
	})
	t.Run("with it it does not", func(t *testing.T) {
		s, err := OpenStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var l raft.Log
		if err := s.GetLog(7, &l); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("got %v", err)
		}
		if err := s.GetLog(8, &l); err != nil {
			t.Fatalf("its neighbour: %v", err)
		}
		if err := s.Verify(); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("verify: %v", err)
		}
	})
}

func TestChecksumCoversEveryField(t *testing.T) {
	t.Parallel()
	s := newStore(nil)
	whole := entry(9)
	whole.Extensions = s.seal(whole)
	for name, change := range map[string]func(*raft.Log){
		"index": func(l *raft.Log) { l.Index++ },
		"term":  func(l *raft.Log) { l.Term++ },
		"type":  func(l *raft.Log) { l.Type = raft.LogBarrier },
		"data":  func(l *raft.Log) { l.Data = append([]byte(nil), l.Data...); l.Data[3] ^= 1 },
		"sum":   func(l *raft.Log) { l.Extensions = append([]byte(nil), l.Extensions...); l.Extensions[2] ^= 1 },
	} {
		l := *whole
		change(&l)
		if s.sealed(&l) {
			t.Errorf("a changed %s is not noticed", name)
		}
	}
}

func TestEntryAlteredOnTheWayIsRefused(t *testing.T) {
	t.Parallel()
	s := openFilled(t, t.TempDir(), 1)
	defer s.Close()
	l := entry(2)
	l.Extensions = s.seal(l)
	l.Data[0] ^= 1
	if err := s.StoreLog(l); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("got %v", err)
	}
}

// cut lets writes through until it is told to fail, as a crash between two writes would.
type cut struct {
	bolt
	left int
}

var errCrash = errors.New("crash")

func (c *cut) Set(k, v []byte) error {
	if c.left--; c.left < 0 {
		return errCrash
	}
	return c.bolt.Set(k, v)
}

func (c *cut) SetUint64(k []byte, v uint64) error {
	return c.Set(k, binary.BigEndian.AppendUint64(nil, v))
}

// vote writes a vote as the library does.
func vote(s raft.StableStore, term uint64, candidate string) error {
	if err := s.SetUint64(keyVoteTerm, term); err != nil {
		return err
	}
	return s.Set(keyVoteCandidate, []byte(candidate))
}

func readVote(t *testing.T, s raft.StableStore) (uint64, string) {
	t.Helper()
	term, err := s.GetUint64(keyVoteTerm)
	if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		t.Fatal(err)
	}
	candidate, err := s.Get(keyVoteCandidate)
	if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		t.Fatal(err)
	}
	return term, string(candidate)
}

func TestVoteIsWrittenWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(bolt) raft.StableStore{
		"ours":    func(b bolt) raft.StableStore { return newStore(b) },
		"library": func(b bolt) raft.StableStore { return b }, // the broken variant
	} {
		t.Run(name, func(t *testing.T) {
			halves := 0
			for writes := range 5 {
				dir := t.TempDir()
				if err := createStore(dir, filepath.Join(dir, storeFile)); err != nil {
					t.Fatal(err)
				}
				db, err := openBolt(filepath.Join(dir, storeFile))
				if err != nil {
					t.Fatal(err)
				}
				s := wrap(&cut{db, writes})
				first := vote(s, 5, "alice")
				second := vote(s, 6, "bob")
				term, candidate := readVote(t, wrap(db)) // as after a restart
				switch {
				case term == 0 && candidate == "" && first != nil:
				case term == 5 && candidate == "alice" && second != nil:
				case term == 6 && candidate == "bob":
				default:
					halves++
				}
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if (halves > 0) != (name == "library") {
				t.Fatalf("%d half votes", halves)
			}
		})
	}
}

func TestStoreIsMonotonicThroughEveryLayer(t *testing.T) {
	t.Parallel()
	s := openFilled(t, t.TempDir(), 0)
	defer s.Close()
	c, err := raft.NewLogCache(cachedEntries, newGuard(s, nil))
	if err != nil {
		t.Fatal(err)
	}
	var top raft.LogStore = c
	if m, ok := top.(raft.MonotonicLogStore); !ok || !m.IsMonotonic() {
		t.Fatal("what Raft is given does not say that it is monotonic")
	}
}

func TestStoreAppearsOnlyWhenComplete(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// A crash in the first creation leaves half a file under its temporary name.
	if err := os.WriteFile(filepath.Join(dir, storeFile+".new"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openFilled(t, dir, 3).Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, storeFile+".new")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the temporary file: %v", err)
	}
}

func TestPoisonedStoreWritesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := openFilled(t, dir, 9).Close(); err != nil {
		t.Fatal(err)
	}
	flip(t, dir, 4)
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	told := make(chan error, 1)
	g := newGuard(s, func(err error) { told <- err })
	ended := make(chan struct{})
	returned := false
	go func() {
		defer close(ended)
		var l raft.Log
		_ = g.GetLog(4, &l) // does not return
		returned = true
	}()
	<-ended
	if returned {
		t.Fatal("a bad entry was handed to the library")
	}
	if err := <-told; !errors.Is(err, ErrCorrupt) {
		t.Fatalf("told %v", err)
	}
	if err := g.StoreLog(entry(10)); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("an entry was acknowledged: %v", err)
	}
	if err := g.Set(keyVoteCandidate, []byte("x")); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a vote was cast: %v", err)
	}
}

func TestCallsMustComeFromWhomTheyClaim(t *testing.T) {
	t.Parallel()
	h := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a"), Addr: []byte("a")}
	forged := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a"), Addr: []byte("b")}
	for name, c := range map[string]struct {
		cmd  any
		good bool
	}{
		"honest":          {&raft.AppendEntriesRequest{RPCHeader: h, Leader: []byte("a")}, true},
		"no header":       {&raft.AppendEntriesRequest{}, false},
		"other address":   {&raft.RequestVoteRequest{RPCHeader: forged}, false},
		"other leader":    {&raft.AppendEntriesRequest{RPCHeader: h, Leader: []byte("b")}, false},
		"other candidate": {&raft.RequestVoteRequest{RPCHeader: h, Candidate: []byte("b")}, false},
		"timeout now":     {&raft.TimeoutNowRequest{RPCHeader: forged}, false},
	} {
		if err := checkSender(raft.RPC{Command: c.cmd}, "a"); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A store that is closed under a reader is no reason to throw its files away.
func TestClosedStoreIsNotCorrupt(t *testing.T) {
	t.Parallel()
	s := openFilled(t, t.TempDir(), 9)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var l raft.Log
	if err := s.GetLog(4, &l); err == nil || errors.Is(err, ErrCorrupt) {
		t.Errorf("read after the end: %v", err)
	}
	g := newGuard(s, nil) // told would panic
	ended, returned := make(chan struct{}), false
	go func() {
		defer close(ended)
		_ = g.GetLog(4, &l) // does not return
		returned = true
	}()
	if <-ended; returned {
		t.Error("an error for which the library panics was handed to it")
	}
	if g.poison.Load() != nil {
		t.Error("a sound store was reported bad")
	}
}

// A bad page is found before bbolt finds it, in a goroutine where nobody could recover: the process would end at every start.
func TestStoreWithABadPageIsCorrupt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 200; i++ {
		if err := s.StoreLog(&raft.Log{Index: i, Term: 1, Data: bytes.Repeat([]byte{byte(i)}, 400)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, storeFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	for at := 2 * page; at < len(b); at += page {
		b[at+8] ^= 0x20 // the kind of page
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(dir); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) {
		t.Errorf("opened: %v", err)
	}
}
