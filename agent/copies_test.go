package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ringagent/ringagent/agent"
	"github.com/ringagent/ringagent/agent/agenttest"
	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/connect4"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// seats hands out what a daemon of each node may use.
type seats struct{ attempts }

func (s *seats) at(t *testing.T, r *agenttest.Ring, name string) (env kit.Env) {
	t.Helper()
	r.Until("a daemon on "+name, func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, x := range slices.Backward(s.all) {
			if x.env.Self.Name == name && x.ctx.Err() == nil {
				env = x.env
				return nil
			}
		}
		return errors.New("not yet")
	})
	return env
}

func (s *seats) spec() kit.Spec { return everywhere("TEST_SEAT", s.run) }

func blobPath(n *agenttest.Node, d id.Digest) string {
	return filepath.Join(n.Dir, "blobs", "sha256", string(d[:2]), string(d))
}

func rightBytes(n *agenttest.Node, d id.Digest) bool {
	b, err := os.ReadFile(blobPath(n, d))
	return err == nil && id.DigestOf(b) == d
}

func modelBytes(t *testing.T, seed uint64) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model")
	if err := connect4.SaveModel(path, &connect4.Model{Net: connect4.NewNetwork(seed), Info: connect4.ModelInfo{Seed: seed}}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// announce makes b an artifact that the node of env holds.
func announce(t *testing.T, env kit.Env, k ring.Kind, b []byte) id.Digest {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	d, n, err := env.Store.PutFile(t.Context(), path)
	if err == nil {
		err = env.Effects.AddArtifacts(t.Context(), ring.Artifact{Digest: d, Kind: k, Config: "connect4_2p", Bytes: n, Created: time.Now().UTC(),
			Origin: env.Self.ID, Holders: []id.Node{env.Self.ID}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// receipts are the nodes that the coordinator counts as holders.
func receipts(ctx context.Context, env kit.Env, d id.Digest) ([]id.Node, error) {
	v, err := env.View.Current(ctx)
	if err != nil {
		return nil, err
	}
	a, ok := v.Library.Artifact(d)
	if !ok {
		return nil, errors.New("no such artifact")
	}
	return a.Holders, nil
}

func mustReceipts(t *testing.T, env kit.Env, d id.Digest) []id.Node {
	t.Helper()
	hs, err := receipts(t.Context(), env, d)
	if err != nil {
		t.Fatal(err)
	}
	return hs
}

func inQuarantine(n *agenttest.Node, d id.Digest) []string {
	all, _ := filepath.Glob(filepath.Join(n.Dir, "quarantine", string(d)+"*"))
	return slices.DeleteFunc(all, func(p string) bool { return strings.HasSuffix(p, ".json") })
}

// A copy that is not there any more, or has other bytes, is no copy: its receipt is taken back without anybody asking, and
// the bytes are fetched again, on a core node and on a rented one.
func TestLostCopiesAreNoticedAndFetchedAgain(t *testing.T) {
	t.Parallel()
	var s seats
	r := agenttest.Start(t, agenttest.Options{Core: 3, Edge: 1, Specs: base(s.spec())})
	first := s.at(t, r, "c1")
	d := announce(t, first, ring.KindModel, modelBytes(t, 1))
	for _, name := range []string{"c2", "e1"} {
		n, env := r.Node(name), s.at(t, r, name)
		if err := first.Orders.Fetch(t.Context(), env.Self.ID, d); err != nil {
			t.Fatal(err)
		}
		damage := map[string]func() error{
			"lost": func() error { return os.Remove(blobPath(n, d)) },
			"flipped": func() error {
				b, err := os.ReadFile(blobPath(n, d))
				b[len(b)/2] ^= 0xff
				_ = os.Remove(blobPath(n, d))
				return errors.Join(err, os.WriteFile(blobPath(n, d), b, 0o600))
			},
		}
		for _, how := range []string{"lost", "flipped"} {
			if err := damage[how](); err != nil {
				t.Fatal(err)
			}
			if how == "flipped" { // as whoever uses or serves it finds
				if err := env.Store.Verify(t.Context(), d); err == nil {
					t.Errorf("%s: the flipped copy is as it should be", name)
				}
				if len(inQuarantine(n, d)) != 1 {
					t.Errorf("%s: quarantine has %v", name, inQuarantine(n, d))
				}
				if hs := mustReceipts(t, first, d); slices.Contains(hs, env.Self.ID) && !rightBytes(n, d) {
					t.Errorf("%s: the receipt of a dropped copy stands: %v", name, hs)
				}
			}
			r.Until(name+" has a copy again that was "+how, func(ctx context.Context) error {
				if !rightBytes(n, d) {
					return errors.New("no copy")
				}
				if hs, err := receipts(ctx, first, d); err != nil || !slices.Contains(hs, env.Self.ID) {
					return fmt.Errorf("receipts of %v, %v", hs, err)
				}
				return nil
			})
		}
	}
	// Nobody else has this one: what is left is the truth.
	alone := announce(t, first, ring.KindModel, modelBytes(t, 2))
	if err := os.Remove(blobPath(r.Node("c1"), alone)); err != nil {
		t.Fatal(err)
	}
	r.Until("the last copy is admitted to be lost", func(ctx context.Context) error {
		if hs, err := receipts(ctx, first, alone); err != nil || len(hs) != 0 {
			return fmt.Errorf("receipts of %v, %v", hs, err)
		}
		return nil
	})
	r.Until("the loss is an alarm", func(ctx context.Context) error {
		var st api.Status
		if err := r.Node("c1").Client().Get(ctx, "/api/v1/status", nil, &st); err != nil {
			return err
		}
		for _, al := range st.Alarms {
			if al.Code == "copies_lost" && strings.HasPrefix(al.Message, "1 artifacts, with 0 games") {
				return nil
			}
		}
		return fmt.Errorf("alarms %+v", st.Alarms)
	})
}

// A pack whose games another one has by now goes by permit, all of them or none, and stays away: a copy that is missed, or found to be
// damaged, is not fetched again.
func TestJoinedPacksStayAway(t *testing.T) {
	t.Parallel()
	var s seats
	r := agenttest.Start(t, agenttest.Options{Core: 3, Specs: base(s.spec())})
	first, second := s.at(t, r, "c1"), s.at(t, r, "c2")
	n := r.Node("c2")
	spread := func(k ring.Kind, b []byte, labels map[string]string) id.Digest {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		d, size, err := first.Store.PutFile(t.Context(), path)
		if err == nil {
			err = first.Effects.AddArtifacts(t.Context(), ring.Artifact{Digest: d, Kind: k, Config: "connect4_2p", Bytes: size, Origin: first.Self.ID,
				Holders: []id.Node{first.Self.ID}, Counters: map[string]int64{kit.CounterGames: 1}, Labels: labels})
		}
		if err == nil {
			err = first.Orders.Fetch(t.Context(), second.Self.ID, d)
		}
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	var packs []id.Digest
	for i := range 4 {
		packs = append(packs, spread(ring.KindPack, packBytes(t, i, 1), nil))
	}
	to := spread(ring.KindFile, packBytes(t, 0, 4), map[string]string{ring.LabelJoins: "connect4_2p"})
	if err := second.Store.Discard(t.Context(), packs...); err == nil || !rightBytes(n, packs[0]) {
		t.Fatalf("copies of packs that count may go: %v", err)
	}
	if err := first.Effects.JoinPacks(t.Context(), to, 4, packs...); err != nil {
		t.Fatal(err)
	}
	r.Until("c2 knows it", func(context.Context) error {
		if a, _ := second.View.Near().Library.Artifact(packs[0]); a.Joined != to {
			return errors.New("not yet")
		}
		return nil
	})
	if err := second.Store.Discard(t.Context(), packs[2], packs[3]); err != nil || rightBytes(n, packs[2]) {
		t.Fatalf("they stay: %v", err)
	}
	if err := os.Remove(blobPath(n, packs[0])); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(blobPath(n, packs[1]), 0o600), os.WriteFile(blobPath(n, packs[1]), []byte("damaged"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := second.Store.Verify(t.Context(), packs[1]); err == nil {
		t.Fatal("it is not found to be damaged")
	}
	control := spread(ring.KindModel, modelBytes(t, 1), nil)
	for range 2 { // what got lost is looked for at the same time
		if err := os.Remove(blobPath(n, control)); err != nil {
			t.Fatal(err)
		}
		r.Until("another copy is back", func(context.Context) error {
			if !rightBytes(n, control) {
				return errors.New("not yet")
			}
			return nil
		})
	}
	for i, d := range packs {
		if hs := mustReceipts(t, first, d); rightBytes(n, d) || !slices.Equal(hs, []id.Node{first.Self.ID}) {
			t.Errorf("pack %d: here %v, receipts of %v", i, rightBytes(n, d), hs)
		}
	}
}

// A model that is put again as something that it is not stays what it was.
func TestWrongKindTakesNoGoodCopy(t *testing.T) {
	t.Parallel()
	var s seats
	r := agenttest.Start(t, agenttest.Options{Specs: base(s.spec())})
	n, env := r.Node("c1"), s.at(t, r, "c1")
	d := announce(t, env, ring.KindModel, modelBytes(t, 1))
	q := map[string][]string{"kind": {"dataset"}, "config": {"connect4_2p"}}
	err := n.Client().Upload(t.Context(), "/api/v1/artifacts", q, bytes.NewReader(modelBytes(t, 1)), nil)
	if err == nil || !strings.Contains(err.Error(), "no good dataset") {
		t.Errorf("a model is taken for a dataset: %v", err)
	}
	if !rightBytes(n, d) || len(inQuarantine(n, d)) != 0 || !slices.Equal(mustReceipts(t, env, d), []id.Node{env.Self.ID}) {
		t.Errorf("the model is there: %v, quarantine %v", rightBytes(n, d), inQuarantine(n, d))
	}
	if err := n.Client().Upload(t.Context(), "/api/v1/artifacts", q, strings.NewReader("nothing"), nil); err == nil {
		t.Error("anything is a dataset")
	}
	if _, err := os.Stat(blobPath(n, id.DigestOf([]byte("nothing")))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was refused has a name: %v", err)
	}
}

// Bytes that are put again take the place of a copy that is damaged, under both of its names: the receipt is for what was put.
func TestPutAgainMendsADamagedCopy(t *testing.T) {
	t.Parallel()
	r := agenttest.Start(t, agenttest.Options{Specs: base()})
	n, good := r.Node("c1"), modelBytes(t, 1)
	d := id.DigestOf(good)
	q := map[string][]string{"kind": {"model"}, "config": {"connect4_2p"}}
	for _, how := range []string{"new", "damaged"} {
		if how == "damaged" { // at the same size, and in place, as a disk does it: the second name has the same bytes
			b := bytes.Clone(good)
			b[len(b)/2] ^= 0xff
			if err := errors.Join(os.Chmod(blobPath(n, d), 0o600), os.WriteFile(blobPath(n, d), b, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.Client().Upload(t.Context(), "/api/v1/artifacts", q, bytes.NewReader(good), nil); err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		links, _ := filepath.Glob(filepath.Join(n.Dir, "models", "*"+d.Short()+"*"))
		if !rightBytes(n, d) || len(links) != 1 {
			t.Fatalf("%s: right bytes %v, names for people %v", how, rightBytes(n, d), links)
		}
		if b, err := os.ReadFile(links[0]); err != nil || id.DigestOf(b) != d {
			t.Errorf("%s: the name for people has other bytes: %v", how, err)
		}
	}
	if len(inQuarantine(n, d)) != 1 {
		t.Errorf("quarantine has %v", inQuarantine(n, d))
	}
}

// Bytes that are no good artifact of their kind never get a name or a receipt, also where a former attempt was interrupted
// before it looked into them, and they are fetched once, however often they are asked for.
func TestRefusedBytesAreFetchedOnce(t *testing.T) {
	t.Parallel()
	var s seats
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 2, Specs: base(s.spec())})
	first := s.at(t, r, "c1")
	bad := []byte("this is no dataset")
	d := announce(t, first, ring.KindDataset, bad)
	for _, name := range []string{"e1", "e2"} {
		n, env := r.Node(name), s.at(t, r, name)
		if name == "e2" { // the name was there before anybody had looked
			if err := os.WriteFile(blobPath(n, d), bad, 0o400); err != nil {
				t.Fatal(err)
			}
		}
		for range 5 {
			if err := first.Orders.Fetch(t.Context(), env.Self.ID, d); err == nil || !strings.Contains(err.Error(), "no good dataset") {
				t.Errorf("%s holds it: %v", name, err)
			}
		}
		if _, err := os.Stat(blobPath(n, d)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: it has its name: %v", name, err)
		}
		if q := inQuarantine(n, d); len(q) != 1 {
			t.Errorf("%s: quarantine has %v, want it once", name, q)
		}
		if hs := mustReceipts(t, first, d); slices.Contains(hs, env.Self.ID) {
			t.Errorf("%s has a receipt", name)
		}
		left, _ := filepath.Glob(filepath.Join(n.Dir, "blobs", "partial", "*"))
		if len(left) != 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// Whoever uses a copy uses the right bytes: one that was altered since its last use is found, and another takes its place.
func TestAlteredBytesAreNotUsed(t *testing.T) {
	t.Parallel()
	var s seats
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 1, Specs: base(s.spec())})
	first, env, n := s.at(t, r, "c1"), s.at(t, r, "e1"), r.Node("e1")
	d := announce(t, first, ring.KindModel, modelBytes(t, 1))
	for round := range 2 {
		path, err := env.Store.Ensure(t.Context(), d)
		if err != nil || !rightBytes(n, d) {
			t.Fatalf("round %d: %v", round, err)
		}
		b := modelBytes(t, 1)
		b[len(b)/2] ^= 0xff
		if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600), os.Chtimes(path, time.Time{}, time.Now().Add(time.Duration(round+1)*time.Second))); err != nil {
			t.Fatal(err)
		}
		body, err := n.Client().Stream(t.Context(), "/api/v1/blobs/"+string(d), nil)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		_, err = got.ReadFrom(body)
		body.Close()
		if err != nil || id.DigestOf(got.Bytes()) != d {
			t.Errorf("round %d: %d bytes that are not those of the name, %v", round, got.Len(), err)
		}
	}
}

// receiverKilled stops a receiver after it has all bytes and before they are on disk, asks whether the ring counts on it, and
// ends it there for good.
func receiverKilled(t *testing.T, receiptFirst bool) (counted bool) {
	t.Helper()
	var s seats
	reached, let := make(chan struct{}), make(chan struct{})
	var once, lets sync.Once
	release := func() { lets.Do(func() { close(let) }) }
	defer release()
	broken := true
	r := agenttest.Start(t, agenttest.Options{Core: 1, Edge: 1, Specs: base(s.spec()), Agent: func(name string, o *agent.Options) {
		if name != "e1" || !broken {
			return
		}
		broken = false // only its first life
		o.Faults.ReceiptFirst = receiptFirst
		o.Faults.Store = func(step string) {
			if step == "checked" {
				once.Do(func() { close(reached) })
				<-let
				runtime.Goexit() // the process was killed here
			}
		}
	}})
	first, n := s.at(t, r, "c1"), r.Node("e1")
	to := s.at(t, r, "e1").Self.ID
	d := announce(t, first, ring.KindModel, modelBytes(t, 1))
	ctx, cancel := context.WithTimeout(t.Context(), agenttest.Patience)
	defer cancel()
	asked := make(chan error, 1)
	go func() { asked <- first.Orders.Fetch(ctx, to, d) }()
	select {
	case <-reached:
	case err := <-asked:
		t.Fatalf("answered before the bytes were on disk: %v", err)
	}
	counted = slices.Contains(mustReceipts(t, first, d), to)
	if _, err := os.Stat(blobPath(n, d)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it has its name before it is on disk: %v", err)
	}
	go func() {
		<-ctx.Done()
		release()
	}()
	ended := make(chan struct{})
	go func() { n.Kill(); close(ended) }()
	release()
	<-ended
	if err := <-asked; err == nil {
		t.Error("who was killed has answered")
	}
	if !receiptFirst && slices.Contains(mustReceipts(t, first, d), to) {
		t.Error("who was killed before the bytes were on disk has given a receipt")
	}
	n.Start()
	to = s.at(t, r, "e1").Self.ID
	r.Until("the next life holds it", func(ctx context.Context) error { return first.Orders.Fetch(ctx, to, d) })
	if !rightBytes(n, d) || !slices.Contains(mustReceipts(t, first, d), to) {
		t.Errorf("bytes there: %v, receipts %v", rightBytes(n, d), mustReceipts(t, first, d))
	}
	return counted
}

// A receiver that is killed between the last write and the fsync has given no receipt. One that states it first is caught.
func TestKilledReceiverHasGivenNoReceipt(t *testing.T) {
	t.Parallel()
	if receiverKilled(t, false) {
		t.Error("a receipt for bytes that are not on disk")
	}
	if !receiverKilled(t, true) {
		t.Error("the check does not catch a receipt that comes before the bytes")
	}
}

// The bytes of an artifact can be had without a coordinator, as everything can that needs no decision.
func TestBytesAreGivenWithoutACoordinator(t *testing.T) {
	t.Parallel()
	var s seats
	r := agenttest.Start(t, agenttest.Options{Core: 3, Edge: 1, Specs: base(s.spec())})
	b := []byte("of an edge node")
	d := announce(t, s.at(t, r, "e1"), ring.KindFile, b)
	away := slices.DeleteFunc(r.Up(), func(n *agenttest.Node) bool { return n == r.Coordinator() || n.Name == "e1" })[0]
	r.Until(away.Name+" knows of it", func(ctx context.Context) error {
		_, err := receipts(ctx, s.at(t, r, away.Name), d)
		return err
	})
	get := func(ctx context.Context) ([]byte, error) {
		in, err := away.Client().Stream(ctx, "/api/v1/blobs/"+string(d), nil)
		if err != nil {
			return nil, err
		}
		defer in.Close()
		return io.ReadAll(in)
	}
	r.Partition(away.Name, "e1")
	r.Until("nobody coordinates", func(ctx context.Context) error {
		var out api.Leader
		if err := away.Client().Get(ctx, "/api/v1/leader", nil, &out); err != nil {
			return err
		}
		if out.Coordinator != nil {
			return errors.New("somebody does")
		}
		return nil
	})
	got, err := get(t.Context())
	if err != nil || !bytes.Equal(got, b) {
		t.Fatalf("got %d of %d bytes: %v", len(got), len(b), err)
	}
	r.Heal()
	r.Until("the copy counts once there is somebody to tell", func(ctx context.Context) error {
		if _, err := get(ctx); err != nil {
			return err
		}
		hs, err := receipts(ctx, s.at(t, r, "e1"), d)
		if err == nil && len(hs) < 2 {
			err = fmt.Errorf("holders %v", hs)
		}
		return err
	})
}
