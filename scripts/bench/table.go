package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"
)

// table prints results as they come.
type table struct {
	w      io.Writer
	missed []string
}

func newTable(w io.Writer) *table { return &table{w: w} }

func (t *table) line(format string, args ...any) { fmt.Fprintf(t.w, format+"\n", args...) }

// head begins a section with its columns.
func (t *table) head(title string, columns ...string) {
	t.line("\n%s   (load %s)", title, load())
	if len(columns) > 0 {
		t.row(columns[0], columns[1:]...)
	}
}

func (t *table) row(first string, cells ...string) {
	var b strings.Builder
	fmt.Fprintf(&b, "  %-44s", first)
	for _, c := range cells {
		fmt.Fprintf(&b, " %15s", c)
	}
	t.line("%s", strings.TrimRight(b.String(), " "))
}

// aim says whether a figure met what was wanted of it.
func (t *table) aim(met bool, format string, args ...any) string {
	if met {
		return "met"
	}
	t.missed = append(t.missed, fmt.Sprintf(format, args...))
	return "MISSED"
}

func (t *table) floors(when string, f floors) {
	t.head("Floors "+when, "", "p50", "p99")
	t.row("4 KiB append + fsync", micros(f.fsync50), micros(f.fsync99))
	t.row("TCP round trip, loopback", micros(f.trip))
	t.row("TLS 1.3 stream, loopback", fmt.Sprintf("%.0f MB/s", f.stream/1e6))
}

func (t *table) summary(took time.Duration) {
	t.line("\nDone in %s, load %s.", took.Round(time.Second), load())
	if len(t.missed) == 0 {
		t.line("Every aim that was measured is met.")
		return
	}
	t.line("Missed:")
	for _, m := range t.missed {
		t.line("  %s", m)
	}
}

func micros(d time.Duration) string { return fmt.Sprintf("%.0f µs", float64(d)/1e3) }

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

func rate(v float64) string { return fmt.Sprintf("%.0f/s", v) }

func times(v float64) string { return fmt.Sprintf("%.2f", v) }

func machine() string {
	return fmt.Sprintf("%s/%s, %d CPUs, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
}

// load is the load of the machine over the last minute and five, "unknown" where the system does not say.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	f := strings.Fields(string(b))
	return f[0] + " " + f[1]
}
