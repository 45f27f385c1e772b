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

// cpuQuota is the container's processors, rounded up, from cgroup v2's cpu.max.
func cpuQuota() (int, bool) {
	text, ok := cgroupFile("cpu.max")
	if !ok {
		return 0, false
	}
	return parseQuota(text)
}

func parseQuota(text string) (int, bool) {
	f := strings.Fields(text)
	if len(f) != 2 {
		return 0, false
	}
	quota, err1 := strconv.Atoi(f[0])
	period, err2 := strconv.Atoi(f[1])
	if err1 != nil || err2 != nil || quota <= 0 || period <= 0 {
		return 0, false
	}
	return (quota + period - 1) / period, true
}
