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

// cgroupStat is one number of a file of names and numbers; 0 if it is not there.
func cgroupStat(file, name string) uint64 {
	text, _ := cgroupFile(file)
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}
