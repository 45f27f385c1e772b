package cluster

import (
	"strings"
	"testing"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
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
