package proc

import (
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
)

// sameProcess says whether the process that p names is alive: pid, start time and boot id all have to agree. A zombie has
// ended.
func sameProcess(p process) bool {
	if p.PID <= 0 || p.Boot == "" {
		return false
	}
	boot, err := bootID()
	if err != nil || boot != p.Boot {
		return false
	}
	st, err := readStat(p.PID)
	return err == nil && st.start == p.Start && !st.zombie
}

// identify describes the live process pid.
func identify(pid int) (process, error) {
	boot, err := bootID()
	if err != nil {
		return process{}, err
	}
	st, err := readStat(pid)
	if err != nil {
		return process{}, err
	}
	return process{PID: pid, Start: st.start, Boot: boot}, nil
}

// descendants are the live processes below root and, where orphans escape, those of the command's process group. Where
// they do not, the group is not asked: its number may have been used again.
func descendants(root, group int) ([]procStat, error) {
	table, err := processTable()
	if err != nil {
		return nil, err
	}
	children := make(map[int][]procStat, len(table))
	for _, p := range table {
		children[p.parent] = append(children[p.parent], p)
	}
	below := map[int]bool{root: true}
	var found []procStat
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		for _, p := range children[queue[0]] {
			if below[p.pid] {
				continue
			}
			below[p.pid] = true
			queue = append(queue, p.pid)
			if !p.zombie {
				found = append(found, p)
			}
		}
	}
	for _, p := range table {
		if orphansEscape && group > 0 && p.group == group && !below[p.pid] && !p.zombie {
			found = append(found, p)
		}
	}
	return found, nil
}

const maxFiles = 100_000

// usedBytes adds up the files below dir, by their length or what they occupy, whatever is smaller: a sparse file is not
// as large as it looks. It stops with ok false at a hundred thousand files.
func usedBytes(dir string) (sum int64, ok bool) {
	files := 0
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // files come and go while the job runs
		}
		if files++; files > maxFiles {
			return errTooMany
		}
		if info, err := d.Info(); err == nil {
			size := info.Size()
			if st, is := info.Sys().(*syscall.Stat_t); is {
				size = min(size, st.Blocks*512)
			}
			sum += size
		}
		return nil
	})
	return sum, !errors.Is(err, errTooMany)
}

// UsedBytes is what lies below dir, or at least that: it stops at a hundred thousand files.
func UsedBytes(dir string) int64 {
	sum, _ := usedBytes(dir)
	return sum
}

var errTooMany = errors.New("too many files")
