package main

import (
	"context"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
)

// heldBack is by how much slowDisk holds every fsync back. With what the disk takes by itself that is what one without a write-back
// cache does.
const heldBack = 2 * time.Millisecond

// slowDisk shows once more what those do who wait for each event, where it is the disk that bounds them and not the processor. The
// program that it runs has floors and aims of its own.
func slowDisk(ctx context.Context, o options, t *table) error {
	if o.sync > 0 || o.kind != "" {
		return nil
	}
	if runtime.GOOS != "linux" {
		t.line("\nOn a slower disk: not measured, fsyncs can be held back on Linux only.")
		return nil
	}
	t.line("\nOn a slower disk, measured by itself:\n")
	return slowly(ctx, o.self, heldBack, []string{
		"-sync", heldBack.String(), "-only", "throughput", "-kind", "committed, 64×1, ", "-for", o.seconds.String(),
		"-bin", o.bin, "-dir", filepath.Join(o.dir, "slow"), "-base-port", strconv.Itoa(o.port),
	})
}
