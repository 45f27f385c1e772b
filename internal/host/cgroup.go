package host

import (
	"strconv"
	"strings"
)

// cgroupNumber reads a cgroup v2 file with one number; "max" means that there is no limit and is no number.
func cgroupNumber(name string) (uint64, bool) {
	text, ok := cgroupFile(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	return n, err == nil
}
