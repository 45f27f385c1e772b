package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/memberlist"
	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/internal/id"
)

func TestMetaRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		short := rapid.StringN(0, 20, 40)
		m := Meta{
			Class: id.Class(short.Draw(t, "class")), Boot: id.Boot(short.Draw(t, "boot")),
			Voter: rapid.Bool().Draw(t, "voter"), Draining: rapid.Bool().Draw(t, "draining"),
			Reach: Reach(short.Draw(t, "reach")), Health: short.Draw(t, "health"),
			HTTP: short.Draw(t, "http"), Address: short.Draw(t, "address"), Version: short.Draw(t, "version"),
			Protocol: rapid.Uint32().Draw(t, "protocol"), State: rapid.Uint32().Draw(t, "state"),
			Started: rapid.Int64Min(0).Draw(t, "started"),
		}
		b, err := m.Encode()
		if err != nil {
			if !errors.Is(err, ErrMetaTooLong) {
				t.Fatal(err)
			}
			return
		}
		if len(b) > MaxMeta {
			t.Fatalf("%d bytes", len(b))
		}
		got, err := DecodeMeta(append(b, 200, 1, 7)) // a field of a later version
		if err != nil || got != m {
			t.Fatalf("%v\n%s", err, cmp.Diff(got, m))
		}
	})
}

func TestRealisticMetaIsSmall(t *testing.T) {
	t.Parallel()
	b, err := Meta{
		Class: id.Edge, Boot: id.NewBoot(), Voter: true, Draining: true, Reach: ReachDirect, Health: "UNHEALTHY",
		HTTP: "[2001:db8:1234:5678:9abc:def0:1234:5678]:18770", Address: "[2001:db8:1234:5678:9abc:def0:1234:5678]:18770",
		Version: "v1.22.333-rc.4", Protocol: 1000, State: 1000, Started: 1800000000,
	}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 200 {
		t.Errorf("%d bytes", len(b))
	}
	if _, err := (Meta{HTTP: strings.Repeat("x", 150), Address: strings.Repeat("y", 150)}).Encode(); !errors.Is(err, ErrMetaTooLong) {
		t.Errorf("too long: %v", err)
	}
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add([]byte{1, 1, 4, 'c', 'o', 'r', 'e'})
	f.Add([]byte{1, 3, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMeta(b)
		if err != nil {
			return
		}
		if _, err := m.Encode(); err != nil && !errors.Is(err, ErrMetaTooLong) {
			t.Error(err)
		}
	})
}

func TestConstantAddress(t *testing.T) {
	t.Parallel()
	n := id.NewNode()
	got, err := nodeAt(constantAddress(n))
	if err != nil || got != n {
		t.Errorf("%s: %v", got, err)
	}
	for _, bad := range []string{"10.0.0.1:1", "[::1]:1", "x"} {
		if _, err := nodeAt(bad); err == nil {
			t.Errorf("%s is taken for a node's", bad)
		}
	}
	if constantIP("short") != nil {
		t.Error("an address was made of no id")
	}
}

// pipes gives a transport whose dials end at a server of the test's, or hang.
func pipes(hang bool) (Dial, chan net.Conn) {
	conns := make(chan net.Conn, 128)
	return func(ctx context.Context, _ id.Node) (net.Conn, error) {
		if hang {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		near, far := net.Pipe()
		conns <- far
		return near, nil
	}, conns
}

func TestWritesNeverBlockAndTheOldestAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, _ := pipes(true)
		tr := newTransport(id.NewNode(), dial, time.Second)
		defer tr.Shutdown()
		peer := id.NewNode()
		began := time.Now()
		for i := range 10_000 {
			if _, err := tr.WriteToAddress([]byte(fmt.Sprint(i)), memberlist.Address{Name: string(peer), Addr: constantAddress(peer)}); err != nil {
				t.Fatal(err)
			}
		}
		if time.Since(began) != 0 {
			t.Errorf("writes waited %s", time.Since(began))
		}
		l := tr.lane(peer)
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.queue) > laneQueue || string(l.queue[len(l.queue)-1]) != "9999" {
			t.Errorf("%d packets wait, the last is %q", len(l.queue), l.queue[len(l.queue)-1])
		}
	})
}

func TestLanesAreBoundedAndEndWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, conns := pipes(false)
		tr := newTransport(id.NewNode(), dial, time.Hour)
		defer tr.Shutdown()
		go func() {
			for c := range conns {
				go func() { _, _ = io.Copy(io.Discard, c) }()
			}
		}()
		defer close(conns)
		for range 100 {
			peer := id.NewNode()
			if _, err := tr.WriteTo([]byte("x"), constantAddress(peer)); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Millisecond)
		}
		count := func() int {
			tr.mu.Lock()
			defer tr.mu.Unlock()
			return len(tr.lanes)
		}
		if n := count(); n != maxLanes {
			t.Errorf("%d lanes, want %d", n, maxLanes)
		}
		<-time.After(laneIdle + time.Second)
		if n := count(); n != 0 {
			t.Errorf("%d idle lanes are kept", n)
		}
	})
}

// TestSilentPathIsReplaced is a connection that takes everything and acknowledges nothing, as a path does that died
// without a word.
func TestSilentPathIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, conns := pipes(false)
		tr := newTransport(id.NewNode(), dial, 6*time.Second)
		dials := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			for c := range conns {
				dials++
				go func() { _, _ = io.Copy(io.Discard, c) }()
			}
		}()
		peer := id.NewNode()
		for range 10 {
			_, _ = tr.WriteTo([]byte("x"), constantAddress(peer))
			<-time.After(time.Second)
		}
		_ = tr.Shutdown()
		close(conns)
		<-done
		if dials != 2 {
			t.Errorf("%d dials in 10 s of silence, want 2", dials)
		}
	})
}

func TestPacketsArriveInOrderAndUnchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := id.NewNode(), id.NewNode()
		dial, conns := pipes(false)
		sender := newTransport(a, dial, 6*time.Second)
		receiver := newTransport(b, dial, 6*time.Second)
		defer sender.Shutdown()
		defer receiver.Shutdown()
		go func() { receiver.receive(<-conns, a) }()
		for _, size := range []int{1, 1400, maxPacket} {
			want := bytes.Repeat([]byte{byte(size)}, size)
			_, err := sender.WriteTo(want, constantAddress(b))
			if err != nil {
				t.Fatal(err)
			}
			p := <-receiver.PacketCh()
			if !bytes.Equal(p.Buf, want) || p.From.String() != constantAddress(a) {
				t.Errorf("%d bytes from %s", len(p.Buf), p.From)
			}
		}
		if _, err := sender.WriteTo(make([]byte, maxPacket+1), constantAddress(b)); err == nil {
			t.Error("a packet that is too long was taken")
		}
	})
}

func TestLoggerLowersLevelsAndHearsOfProbes(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var failed []id.Node
	l := newLogger(zerolog.New(&out), func(n id.Node) { failed = append(failed, n) })
	l.Printf("[INFO] memberlist: Suspect %s has failed, no acks received", "0123456789abcdef")
	l.Printf("[ERR] memberlist: Push/Pull with x failed: \x1b[31m")
	if len(failed) != 1 || failed[0] != "0123456789abcdef" {
		t.Errorf("probes that failed: %q", failed)
	}
	want := `{"level":"debug","message":"Suspect 0123456789abcdef has failed, no acks received"}` + "\n" +
		`{"level":"warn","message":"Push/Pull with x failed: \u001b[31m"}` + "\n"
	if diff := cmp.Diff(out.String(), want); diff != "" {
		t.Error(diff)
	}
}

func TestGoodbyeBeforeAndAfterTheVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable()
		a, b, c := id.NewNode(), id.NewNode(), id.NewNode()
		for _, n := range []id.Node{a, b, c} {
			tb.set(n, Meta{Boot: "b1"}, true)
		}
		tb.bye(a, "b1")
		tb.gone(a)
		tb.gone(b)
		tb.bye(b, "b1")
		tb.bye(c, "another boot")
		tb.gone(c)
		want := map[id.Node]Status{a: Left, b: Left, c: Failed}
		for _, m := range tb.list() {
			if m.Status != want[m.ID] {
				t.Errorf("%s is %s, want %s", m.ID, m.Status, want[m.ID])
			}
		}
		<-time.After(forgetAfter + time.Second)
		tb.prune([]id.Node{a})
		if l := tb.list(); len(l) != 1 || l[0].ID != a {
			t.Errorf("after a day %v are remembered", l)
		}
	})
}

// TestForeignClaims tells the leftovers of an earlier boot from another machine with the same identity.
func TestForeignClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		self := id.NewNode()
		var doubles []id.Boot
		d := &delegate{self: self, boot: "mine", table: newTable(), double: func(b id.Boot, _ string) { doubles = append(doubles, b) }}
		say := func(boot id.Boot) {
			b, err := Meta{Class: id.Core, Boot: boot}.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if err := d.NotifyAlive(&memberlist.Node{Name: string(self), Addr: constantIP(self), Port: constantPort, Meta: b}); err != nil {
				t.Fatal(err)
			}
		}
		for range 50 { // right after a restart everybody still tells of the boot before
			say("before")
			<-time.After(50 * time.Millisecond)
		}
		<-time.After(time.Minute)
		say("before") // a healed partition
		for range 60 {
			say("mine")
			<-time.After(time.Second)
		}
		if len(doubles) != 0 {
			t.Fatalf("doubles found: %q", doubles)
		}
		for range 12 {
			say("other")
			<-time.After(time.Second)
		}
		if len(doubles) != 1 || doubles[0] != "other" {
			t.Errorf("doubles found: %q", doubles)
		}
	})
}
