package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/urfave/cli/v2"
)

// deaf is an agent's socket that takes every question and answers none.
func deaf(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	}()
	return l.Addr().String()
}

// TestLongWorkHeedsTimeout: whoever says how long it may take is not left waiting.
func TestLongWorkHeedsTimeout(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	sha := strings.Repeat("0", 64)
	for _, line := range []string{
		"data verify", "data put " + file + " --kind file", "data get " + sha + " --out " + file, "events verify --all-nodes", "leave --drain",
	} {
		begin := time.Now()
		exit, out, err := said(append([]string{"--socket", deaf(t), "--timeout", "200ms"}, strings.Fields(line)...)...)
		if exit != 6 || time.Since(begin) > 10*time.Second {
			t.Errorf("%s: exit %d after %s: %s%s", line, exit, time.Since(begin), out, err)
		}
	}
}

// TestLongWorkIsWaitedFor: the default of --timeout is for short questions.
func TestLongWorkIsWaitedFor(t *testing.T) {
	for _, c := range []struct {
		args  []string
		limit time.Duration // of the work
		least time.Duration // that is left; 0: there is no end
		most  time.Duration
	}{
		{nil, asLongAsItTakes, 0, 0},
		{nil, verifyLimit, 10 * time.Minute, verifyLimit},
		{[]string{"--timeout", "7s"}, asLongAsItTakes, time.Second, 7 * time.Second},
		{[]string{"--timeout", "7s"}, verifyLimit, time.Second, 7 * time.Second},
		{[]string{"--timeout", "0"}, verifyLimit, 0, 0},
	} {
		app := &cli.App{Flags: globalFlags(), Action: func(ctx *cli.Context) error {
			asked, cancel := askLong(ctx, c.limit)
			defer cancel()
			end, ends := asked.Deadline()
			if left := time.Until(end); ends != (c.most > 0) || ends && (left < c.least || left > c.most) {
				t.Errorf("%q, %s: ends %v, in %s", c.args, c.limit, ends, left)
			}
			return nil
		}}
		if err := app.RunContext(t.Context(), append([]string{"x"}, c.args...)); err != nil {
			t.Error(err)
		}
	}
}

// TestProgress: a line every moment, none after the end, and none where nobody looks.
func TestProgress(t *testing.T) {
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		in := &counted{Reader: strings.NewReader("12345")}
		_, _ = in.Read(make([]byte, 9))
		stop := keepTelling(&out, progressEvery, in.soFar)
		time.Sleep(2*progressEvery + time.Second)
		stop()
		stop()
		time.Sleep(2 * progressEvery)
	})
	if got := out.String(); got != "still at it, 3 s, 5 B\nstill at it, 6 s, 5 B\n" {
		t.Errorf("%q", got)
	}
	app := &cli.App{ErrWriter: &out, Flags: globalFlags(), Action: func(c *cli.Context) error {
		progress(c, func() string { t.Error("nobody looks"); return "" })()
		return nil
	}}
	if err := app.Run([]string{"x"}); err != nil {
		t.Error(err)
	}
}
