package cluster

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func ptr[T any](v T) *T { return &v }

func TestVerdict(t *testing.T) {
	t.Parallel()
	set := NodeHealth().Settings.(HealthSettings)
	for _, c := range []struct {
		name   string
		sample kit.Sample
		reach  map[id.Node]bool
		level  int
		reason string
	}{
		{name: "nothing is known: no reason to condemn", level: 0},
		{name: "fine", sample: kit.Sample{DiskPercent: ptr(50.0), FsyncSeconds: ptr(0.01)}, reach: map[id.Node]bool{"a": true}, level: 0},
		{name: "disk fills", sample: kit.Sample{DiskPercent: ptr(91.0)}, level: 1, reason: "disk is 91% full"},
		{name: "disk is full", sample: kit.Sample{DiskPercent: ptr(96.0)}, level: 2, reason: "disk is 96% full"},
		{name: "few bytes left", sample: kit.Sample{DiskPercent: ptr(10.0), DiskFree: ptr(int64(1 << 20))}, level: 2, reason: "1 MiB"},
		{name: "slow fsync", sample: kit.Sample{FsyncSeconds: ptr(2.0)}, level: 1, reason: "fsync"},
		{name: "stalled fsync", sample: kit.Sample{FsyncSeconds: ptr(11.0)}, level: 2, reason: "fsync"},
		{name: "GPU gone", sample: kit.Sample{GPUSlots: 2, GPUs: []kit.GPU{{}}}, level: 2, reason: "1 of 2 GPUs"},
		{name: "GPU error", sample: kit.Sample{GPUSlots: 2, GPUError: "no driver"}, level: 2, reason: "no driver"},
		{name: "GPU error where none is needed", sample: kit.Sample{GPUError: "no driver"}, level: 0},
		{name: "hot GPU", sample: kit.Sample{GPUSlots: 2, GPUs: []kit.GPU{{TempC: ptr(95.0)}, {}}}, level: 1, reason: "95 °C"},
		{name: "one stage cannot run", sample: kit.Sample{Preflight: map[string]string{"train": "no python", "selfplay": ""}}, level: 1, reason: "train: no python"},
		{name: "no stage can run", sample: kit.Sample{Preflight: map[string]string{"train": "no python"}}, level: 2, reason: "no python"},
		{name: "cut off", reach: map[id.Node]bool{"a": false, "b": false}, level: 2, reason: "reaches none of 2"},
		{name: "half cut off", reach: map[id.Node]bool{"a": false, "b": false, "c": true}, level: 1, reason: "1 of 3"},
	} {
		level, reasons := set.judge(c.sample, c.reach)
		if level != c.level || !strings.Contains(strings.Join(reasons, "; "), c.reason) || (level == 0) != (len(reasons) == 0) {
			t.Errorf("%s: level %d, %v", c.name, level, reasons)
		}
	}
}

// reported is the node's last report.
func reported(n *kittest.Node) (h kit.Health) {
	n.Set(func(n *kittest.Node) { h = n.Health })
	return h
}

// The node asks its peers whether they can be reached, and by that it judges itself; those that are gone, and itself, it does not ask.
func TestVerdictFollowsTheReachOfPeers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t)
		n := r.AddNode("self", id.Core, ring.Slots{})
		gone := id.Node("gone")
		peers := []kit.Peer{{ID: n.ID, Status: ring.Alive}, {ID: gone, Status: ring.Failed}}
		live := []id.Node{"a", "b", "c", "d"}
		for _, p := range live {
			peers = append(peers, kit.Peer{ID: p, Status: ring.Alive})
		}
		// reach makes all but the first so many of them unreachable.
		reach := func(count int) {
			n.Set(func(n *kittest.Node) {
				n.PeerList, n.Pings = peers, map[id.Node]error{n.ID: errors.New("deliberate"), gone: errors.New("deliberate")}
				for _, p := range live[count:] {
					n.Pings[p] = errors.New("deliberate")
				}
			})
		}
		reach(4)
		n.Start(NodeHealth(), "")
		for _, c := range []struct {
			reached          int
			verdict          string
			reasons          []string
			unhealthy, again int // events so far
		}{
			{4, Healthy, nil, 0, 0},
			{2, Healthy, nil, 0, 0},
			{1, Degraded, []string{"reaches 1 of 4 peers"}, 0, 0},
			{0, Unhealthy, []string{"reaches none of 4 peers"}, 1, 0},
			{4, Healthy, nil, 1, 1},
		} {
			reach(c.reached)
			time.Sleep(5 * time.Minute)
			h := reported(n)
			if h.Verdict != c.verdict || !slices.Equal(h.Reasons, c.reasons) || len(h.Reach) != len(live) {
				t.Errorf("%d of 4 peers answer: %s, %q, asked %v", c.reached, h.Verdict, h.Reasons, h.Reach)
			}
			if ill, well := len(r.Log(event.NodeUnhealthy.Type())), len(r.Log(event.NodeRecovered.Type())); ill != c.unhealthy || well != c.again {
				t.Errorf("%d of 4 peers answer: NODE_UNHEALTHY was told %d times, NODE_RECOVERED %d times", c.reached, ill, well)
			}
		}
		if t.Failed() {
			return
		}
		ill, err := event.NodeUnhealthy.Read(r.Log(event.NodeUnhealthy.Type())[0])
		if err != nil || ill.NodeID != n.ID || !slices.Equal(ill.Reasons, []string{"reaches none of 4 peers"}) {
			t.Errorf("%+v, %v", ill, err)
		}
		told, back := r.Log(event.NodeUnhealthy.Type())[0].Time, r.Log(event.NodeRecovered.Type())[0]
		well, err := event.NodeRecovered.Read(back)
		if err != nil || well.NodeID != n.ID || well.DowntimeSeconds != back.Time.Sub(told).Seconds() {
			t.Errorf("%+v, %v", well, err)
		}
	})
}

// Memory that is nearly full is told once while it lasts and makes nobody unhealthy: the node does its work as before.
func TestOverloadIsToldOnceWhileItLasts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := kittest.New(t)
		n := r.AddNode("self", id.Core, ring.Slots{})
		n.Start(NodeHealth(), "")
		told := 0
		for _, percent := range []float64{50, 95, 60, 95} {
			var why []string
			if percent == 95 {
				told, why = told+1, []string{"memory is 95% used"}
			}
			n.Set(func(n *kittest.Node) { n.Sample.MemPercent = &percent })
			time.Sleep(10 * time.Minute)
			events := r.Log(event.NodeOverloaded.Type())
			if h := reported(n); h.Verdict != Healthy || !slices.Equal(h.Reasons, why) || len(events) != told {
				t.Errorf("memory at %.0f%%: %s, %q, NODE_OVERLOADED was told %d times, want %d", percent, h.Verdict, h.Reasons, len(events), told)
			}
			if len(events) > 0 {
				v, err := event.NodeOverloaded.Read(events[len(events)-1])
				if err != nil || v.NodeID != n.ID || !slices.Equal(v.Reasons, []string{"memory is 95% used"}) {
					t.Errorf("memory at %.0f%%: %+v, %v", percent, v, err)
				}
			}
		}
		if all := r.Log(); len(all) != told {
			t.Errorf("told besides: %v", all)
		}
	})
}
