package leader_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/leader"
	"github.com/ringagent/ringagent/leader/leadertest"
	"github.com/ringagent/ringagent/leader/state"
)

// TestOnlySparedVotersLeave: of three voters that want to leave at the same moment one may, wherever it asks; the others are
// refused and stand as before. Who does not vote goes when it likes.
func TestOnlySparedVotersLeave(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Edge: 1}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		ctx := t.Context()
		for _, m := range r.Members {
			if _, err := m.Node.Propose(ctx, state.Command{Kind: state.KindReport, Body: state.Report{Member: ring.Member{ID: m.ID, Boot: m.Boot}}}); err != nil {
				t.Fatal(err)
			}
		}
		leave := func(m *leadertest.Member) error {
			_, err := m.Node.Propose(ctx, state.Command{Kind: state.KindStatus, Body: state.SetStatus{Node: m.ID, Boot: m.Boot, Status: ring.Left}})
			return err
		}
		errs := make([]error, 3)
		var group sync.WaitGroup
		for i, m := range r.Members[:3] {
			group.Go(func() { errs[i] = leave(m) })
		}
		group.Wait()
		left := 0
		for i, err := range errs {
			var refused *leader.Refused
			switch {
			case err == nil:
				left++
			case !errors.As(err, &refused) || refused.Code != string(state.CodeRefused):
				t.Errorf("leave of %s: %v", r.Members[i].Name, err)
			}
			s, err2 := r.Coordinator().Node.Read(ctx)
			if err2 != nil {
				t.Fatal(err2)
			}
			if m, _ := s.Member(r.Members[i].ID); (m.Status == ring.Left) != (err == nil) {
				t.Errorf("%s was answered %v and is %s", m.Name, err, m.Status)
			}
		}
		if left != 1 {
			t.Errorf("%d of three voters have left at once: %v", left, errs)
		}
		if err := leave(r.Members[3]); err != nil {
			t.Errorf("an edge node may not leave: %v", err)
		}
	})
}

// TestOnlySparedVotersAreShutOut: of two operators who each shut out another voter of three at the same moment, one is refused.
// Who is out already may be shut out once more.
func TestOnlySparedVotersAreShutOut(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3, Edge: 1}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		ctx := t.Context()
		for _, m := range r.Members {
			if _, err := m.Node.Propose(ctx, state.Command{Kind: state.KindReport, Body: state.Report{Member: ring.Member{ID: m.ID, Boot: m.Boot}}}); err != nil {
				t.Fatal(err)
			}
		}
		by := r.Coordinator()
		revoke := func(m *leadertest.Member) error {
			_, err := by.Node.Propose(ctx, state.Command{Kind: state.KindRevoke, Body: state.Revoke{Node: m.ID}})
			return err
		}
		var out, kept []*leadertest.Member
		var mu sync.Mutex
		var group sync.WaitGroup
		for _, m := range r.Members[:3] {
			if m == by {
				continue
			}
			group.Go(func() {
				err := revoke(m)
				mu.Lock()
				defer mu.Unlock()
				var refused *leader.Refused
				switch {
				case err == nil:
					out = append(out, m)
				case errors.As(err, &refused) && refused.Code == string(state.CodeRefused):
					kept = append(kept, m)
				default:
					t.Errorf("shut %s out: %v", m.Name, err)
				}
			})
		}
		group.Wait()
		if len(out) != 1 || len(kept) != 1 {
			t.Fatalf("%d of two voters were shut out, %d kept", len(out), len(kept))
		}
		if err := revoke(out[0]); err != nil {
			t.Errorf("shut out once more: %v", err)
		}
		if err := revoke(r.Members[3]); err != nil {
			t.Errorf("an edge node cannot be shut out: %v", err)
		}
	})
}

// In the first moments of a term the new coordinator has heard no renewals yet, and must not take the voter that has just
// died for one that is there.
func TestNobodyIsSparedForADeadVoterInAYoungTerm(t *testing.T) {
	t.Parallel()
	bubble(t, leadertest.Options{Core: 3}, func(t *testing.T, r *leadertest.Ring) {
		r.Wait(20*time.Second, "three voters", voters(r, 3))
		ctx := t.Context()
		for _, m := range r.Members {
			if _, err := m.Node.Propose(ctx, state.Command{Kind: state.KindReport, Body: state.Report{Member: ring.Member{ID: m.ID, Boot: m.Boot}}}); err != nil {
				t.Fatal(err)
			}
		}
		dead := r.Coordinator()
		r.Kill(dead)
		r.Wait(10*time.Second, "another coordinator", func() bool { return r.Coordinator(dead) != nil })
		for _, m := range r.Members {
			if m == dead {
				continue
			}
			_, err := m.Node.Propose(ctx, state.Command{Kind: state.KindStatus, Body: state.SetStatus{Node: m.ID, Boot: m.Boot, Status: ring.Left}})
			var refused *leader.Refused
			if !errors.As(err, &refused) || refused.Code != string(state.CodeRefused) {
				t.Errorf("%s, one of the last two of three voters, may leave: %v", m.Name, err)
			}
		}
	})
}
