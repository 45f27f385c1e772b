package agent_test

import (
	"flag"
	"os"
	"testing"

	"github.com/ringagent/ringagent/internal/proc"
)

// The test binary is also the shim of the jobs that it starts. Rings take turns: more than two at a time on a small machine
// measure the machine.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "job-shim" {
		os.Exit(proc.ShimMain(os.Args[2:]))
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "2")
	os.Exit(m.Run())
}
