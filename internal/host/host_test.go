package host

import (
	"os"
	"testing"
)

func TestParseGPUs(t *testing.T) {
	t.Parallel()
	got, err := parseGPUs("NVIDIA GH200 480GB, 512, 97871, 37, 41\nNVIDIA X, [N/A], [Not Supported], [N/A], 30\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || *got[0].MemTotalMiB != 97871 || *got[0].UtilPercent != 37 {
		t.Errorf("got %+v", got)
	}
	if got[1].MemUsedMiB != nil || got[1].MemTotalMiB != nil || got[1].UtilPercent != nil {
		t.Error("what the driver does not know must stay unknown")
	}
	if _, err := parseGPUs("Unable to determine the device handle\n"); err == nil {
		t.Error("a message of the driver was taken for a card")
	}
}

func TestSampleKnowsItsDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := NewReader(dir).Sample(t.Context())
	if s.DiskFree == nil || *s.DiskFree <= 0 || s.FsyncSeconds == nil {
		t.Errorf("disk unknown: %+v", s)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("the canary left %v (%v)", left, err)
	}
	gone := NewReader(dir + "/gone").Sample(t.Context())
	if gone.DiskFree != nil || gone.FsyncSeconds != nil {
		t.Error("a folder that is not there has a reading")
	}
}
