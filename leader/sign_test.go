package leader

import (
	"slices"
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

// brought is a call that brought the entries from…to, and told of commit.
func brought(from, to, commit uint64) *raft.AppendEntriesRequest {
	a := &raft.AppendEntriesRequest{Term: 7, PrevLogEntry: from - 1, PrevLogTerm: 7, LeaderCommitIndex: commit}
	for i := from; i <= to; i++ {
		a.Entries = append(a.Entries, &raft.Log{Index: i, Term: 7})
	}
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
			later: func(_ *knowledge, all *signs) { all.call("a") }},
		{name: "another follower is called", now: knowledge{7, 12, true}, args: brought(11, 12, 10), want: []uint64{12},
			later: func(_ *knowledge, all *signs) { all.call("b") }},
		{name: "more came", now: knowledge{7, 12, true}, args: brought(11, 12, 10), want: []uint64{14},
			later: func(k *knowledge, all *signs) {
				all.call("a")
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
				k, given := c.now, []uint64(nil)
				all := newSigns(func() (uint64, uint64, bool) {
					mu.Lock()
					defer mu.Unlock()
					return k.term, k.commit, k.leads
				}, func(_ raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest) {
					given = append(given, args.LeaderCommitIndex)
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
				if !slices.Equal(given, c.want) {
					t.Errorf("signs %v, want %v", given, c.want)
				}
			})
		})
	}
}
