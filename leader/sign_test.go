package leader

import (
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// knowledge is a coordinator's.
type knowledge struct {
	term, commit uint64
	leads        bool
}

// brought is a call that brought the entries from…to, and told of commit. Up to 11 they are of an earlier term.
func brought(from, to, commit uint64) *raft.AppendEntriesRequest {
	a := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ID: []byte("me"), Addr: []byte("here")}, Term: 7, Leader: []byte("here"),
		PrevLogEntry: from - 1, PrevLogTerm: 5, LeaderCommitIndex: commit,
	}
	for i := from; i <= to; i++ {
		a.Entries = append(a.Entries, &raft.Log{Index: i, Term: 6 + min(1, i/12)})
	}
	return a
}

// signOf is the sign that the entries up to last, of term 7, are committed.
func signOf(last uint64) *raft.AppendEntriesRequest {
	a := brought(last+1, last, last)
	a.PrevLogTerm = 7
	return a
}

func TestSigns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		now   knowledge
		args  *raft.AppendEntriesRequest
		after time.Duration
		later func(k *knowledge, all *signs)
		want  []uint64
	}{
		{name: "committed", now: knowledge{7, 12, true}, args: brought(11, 12, 10), want: []uint64{12}},
		{name: "committed later", now: knowledge{7, 10, true}, args: brought(11, 12, 10), want: []uint64{12},
			after: 40 * time.Millisecond, later: func(k *knowledge, _ *signs) { k.commit = 12 }},
		{name: "never committed", now: knowledge{7, 10, true}, args: brought(11, 12, 10)},
		{name: "in part only", now: knowledge{7, 11, true}, args: brought(11, 12, 10)},
		{name: "told with it", now: knowledge{7, 12, true}, args: brought(11, 12, 12)},
		{name: "brought nothing", now: knowledge{7, 12, true}, args: brought(13, 12, 10)},
		{name: "the next call begins", now: knowledge{7, 12, true}, args: brought(11, 12, 10),
			later: func(_ *knowledge, all *signs) { all.call("a", brought(13, 13, 10)) }},
		{name: "the next call tells", now: knowledge{7, 12, true}, args: brought(11, 12, 10),
			later: func(_ *knowledge, all *signs) { all.call("a", brought(13, 12, 12)) }},
		{name: "the next call tells nothing new", now: knowledge{7, 12, true}, args: brought(11, 12, 10), want: []uint64{12},
			later: func(_ *knowledge, all *signs) { all.call("a", brought(13, 12, 11)) }},
		{name: "another follower is called", now: knowledge{7, 12, true}, args: brought(11, 12, 10), want: []uint64{12},
			later: func(_ *knowledge, all *signs) { all.call("b", brought(11, 12, 10)) }},
		{name: "more came", now: knowledge{7, 12, true}, args: brought(11, 12, 10), want: []uint64{14},
			later: func(k *knowledge, all *signs) {
				all.call("a", brought(13, 14, 10))
				k.commit = 14
				all.stored("a", "a", brought(13, 14, 10))
			}},
		{name: "the ring is further than the follower", now: knowledge{7, 13, true}, args: brought(11, 12, 10)},
		{name: "another term", now: knowledge{8, 12, true}, args: brought(11, 12, 10)},
		{name: "deposed meanwhile", now: knowledge{7, 12, true}, args: brought(11, 12, 10),
			later: func(k *knowledge, _ *signs) { k.leads = false }},
		{name: "closed", now: knowledge{7, 12, true}, args: brought(11, 12, 10),
			later: func(_ *knowledge, all *signs) { all.close() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				k, given := c.now, []*raft.AppendEntriesRequest(nil)
				all := newSigns(func() (uint64, uint64, bool) {
					mu.Lock()
					defer mu.Unlock()
					return k.term, k.commit, k.leads
				}, func(_ raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest) {
					given = append(given, args)
				})
				all.stored("a", "a", c.args)
				time.Sleep(c.after)
				if c.later != nil {
					mu.Lock()
					c.later(&k, all)
					mu.Unlock()
				}
				time.Sleep(time.Second)
				all.close()
				var want []*raft.AppendEntriesRequest
				for _, last := range c.want {
					want = append(want, signOf(last))
				}
				if !reflect.DeepEqual(given, want) {
					t.Errorf("signs %+v, want %+v", given, want)
				}
			})
		})
	}
}

// A follower that is slow to take a sign gets no second one meanwhile, and nobody is left behind.
func TestSignsOneAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var given []uint64
		all := newSigns(func() (uint64, uint64, bool) { return 7, 12, true },
			func(_ raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest) {
				given = append(given, args.LeaderCommitIndex)
				time.Sleep(time.Minute)
			})
		all.stored("a", "a", brought(11, 12, 10))
		time.Sleep(time.Second)
		all.stored("a", "a", brought(12, 12, 10))
		time.Sleep(time.Second)
		began := time.Now()
		all.close()
		if took := time.Since(began); took < 50*time.Second {
			t.Errorf("closed after %s, with a sign under way", took)
		}
		all.stored("a", "a", brought(11, 12, 10))
		time.Sleep(time.Minute)
		if len(given) != 1 {
			t.Errorf("signs %v, want one", given)
		}
	})
}
