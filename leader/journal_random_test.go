package leader

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
)

// moodyBolt fails now and then, when it is told to.
type moodyBolt struct {
	bolt
	bad atomic.Bool
}

func (m *moodyBolt) mood() error {
	if m.bad.Load() && rand.IntN(2) == 0 {
		return syscall.ENOSPC
	}
	return nil
}

func (m *moodyBolt) StoreLogs(l []*raft.Log) error {
	if err := m.mood(); err != nil {
		return err
	}
	return m.bolt.StoreLogs(l)
}

func (m *moodyBolt) DeleteRange(lo, hi uint64) error {
	if err := m.mood(); err != nil {
		return err
	}
	return m.bolt.DeleteRange(lo, hi)
}

// Calls that succeed and calls that fail, of the journal's disk and of raft.db's, ended by a close, a kill or a power cut that keeps
// any part of what was not synced: what was acknowledged is there, and what is there was handed over, in its place.
func TestJournalSurvivesWhatMayHappen(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	for i := range uint64(40) {
		t.Run(fmt.Sprint(seed+i), func(t *testing.T) {
			t.Parallel()
			c := &crasher{T: t, Rand: rand.New(rand.NewPCG(seed+i, 1)), dir: t.TempDir(), next: 1, onDisk: map[string][]byte{}}
			c.block = []int{64, 512, 4096}[c.IntN(3)]
			for range 5 {
				c.open(c.IntN(4) == 0)
				for range 3 + c.IntN(20) {
					c.call()
				}
				c.end()
				c.compare()
			}
		})
	}
}

// crasher drives one journal.
type crasher struct {
	*testing.T
	*rand.Rand
	dir    string
	block  int
	s      *Store
	j      *journal
	db     *moodyBolt
	onDisk map[string][]byte // what is surely in each file

	model   []*raft.Log // what was acknowledged
	next    uint64
	perhaps []*raft.Log // entries of calls that failed since one succeeded
	gone    [][2]uint64 // deletions that failed since then
}

func (c *crasher) open(full bool) {
	c.Helper()
	db, err := openBolt(filepath.Join(c.dir, storeFile))
	if err != nil {
		c.Fatal(err)
	}
	c.db = &moodyBolt{bolt: db}
	size := small
	size.rows, size.segment = 4, []int64{600, 1500, 4000, 20000}[c.IntN(4)]
	c.db.bad.Store(full)
	for err = syscall.ENOSPC; errors.Is(err, syscall.ENOSPC); {
		c.j = newJournal(c.dir, c.db, size)
		c.j.sync = c.synced
		if err = c.j.start(); err != nil {
			_ = c.j.closeFiles()
		}
		full = false // or it may take long
		c.db.bad.Store(full)
	}
	if err != nil {
		c.Fatalf("open: %v", err)
	}
	c.s = newStore(c.j)
}

func (c *crasher) synced(f *os.File) (err error) {
	c.onDisk[f.Name()], err = os.ReadFile(f.Name())
	return err
}

func (c *crasher) call() {
	c.Helper()
	switch c.IntN(8) {
	case 0:
		good := c.IntN(2)
		c.j.sync = func(f *os.File) error {
			if good--; good < 0 {
				return errPower
			}
			return c.synced(f)
		}
	case 1:
		c.db.bad.Store(true)
	}
	defer func() { c.j.sync = c.synced; c.db.bad.Store(false) }()
	if len(c.model) > 0 && c.IntN(4) == 0 {
		c.delete()
		return
	}
	var logs []*raft.Log
	for range 1 + c.IntN(6) {
		n := 8 + c.IntN(200)
		if c.IntN(20) == 0 {
			n = 700 + c.IntN(6000)
		}
		logs = append(logs, sized(c.next+uint64(len(logs)), n))
	}
	if err := c.s.StoreLogs(logs); err != nil {
		c.perhaps = append(c.perhaps, logs...)
		return
	}
	c.perhaps, c.gone = nil, nil
	c.model, c.next = append(c.model, logs...), c.next+uint64(len(logs))
}

func (c *crasher) delete() {
	c.Helper()
	lo, hi := c.model[0].Index, c.model[len(c.model)-1].Index
	if cut := lo + c.Uint64N(hi-lo+1); c.IntN(2) == 0 {
		hi = cut
	} else {
		lo = cut
	}
	if err := c.s.DeleteRange(lo, hi); err != nil {
		c.gone = append(c.gone, [2]uint64{lo, hi})
		return
	}
	c.perhaps, c.gone = nil, nil
	if first := c.model[0].Index; lo == first {
		c.model = c.model[hi-lo+1:]
	} else {
		c.model, c.next = c.model[:lo-first], lo
	}
}

// end ends the process, in order or by a power cut.
func (c *crasher) end() {
	c.Helper()
	if c.IntN(4) == 0 {
		if err := c.s.Close(); err != nil {
			c.Fatal(err)
		}
		return
	}
	c.j.kill(c)
	keep := c.IntN(5) // 0 and 1: everything, since it is a mere kill or was written in time; 2: nothing
	if keep == 0 {
		return
	}
	for _, f := range segmentFiles(c, c.dir) {
		now, err := os.ReadFile(f)
		if err != nil {
			c.Fatal(err)
		}
		out := bytes.Clone(c.onDisk[f])
		if grown := len(now) - len(out); grown > 0 && (keep == 1 || keep > 2 && c.IntN(2) == 0) {
			out = append(out, make([]byte, grown)...)
		}
		for at := 0; at < min(len(out), len(now)); at += c.block {
			if keep == 1 || keep > 2 && c.IntN(2) == 0 {
				copy(out[at:min(at+c.block, len(out))], now[at:min(at+c.block, len(now))])
			}
		}
		if err := os.WriteFile(f, out, 0o600); err != nil {
			c.Fatal(err)
		}
		c.onDisk[f] = out
	}
}

// compare opens the files and takes what they have for what is acknowledged from here on.
func (c *crasher) compare() {
	c.Helper()
	c.open(false)
	if err := c.s.Verify(); err != nil {
		c.Fatal(err)
	}
	first, err1 := c.s.FirstIndex()
	last, err2 := c.s.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		c.Fatal(err)
	}
	there := map[uint64]*raft.Log{}
	var all []*raft.Log
	for i := first; i != 0 && i <= last; i++ {
		l := new(raft.Log)
		if err := c.s.GetLog(i, l); err != nil {
			c.Fatal(err)
		}
		there[i], all = l, append(all, l)
	}
	for _, want := range c.model {
		l := there[want.Index]
		delete(there, want.Index)
		if l == nil && slices.ContainsFunc(c.gone, func(d [2]uint64) bool { return want.Index >= d[0] && want.Index <= d[1] }) {
			continue
		}
		if l == nil || !bytes.Equal(l.Data, want.Data) {
			c.Fatalf("entry %d of %d to %d is lost or another one", want.Index, first, last)
		}
	}
	for _, l := range there {
		if !slices.ContainsFunc(c.perhaps, func(p *raft.Log) bool { return p.Index == l.Index && bytes.Equal(p.Data, l.Data) }) {
			c.Fatalf("nobody stored entry %d, or it was deleted", l.Index)
		}
	}
	c.model, c.perhaps, c.gone = all, nil, nil
	if last != 0 {
		c.next = last + 1
	}
	c.end()
}
