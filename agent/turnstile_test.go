package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func TestTurnstile(t *testing.T) {
	t.Parallel()
	real, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	gate := &turnstile{real: real}
	done := make(chan error, 1)
	go func() { done <- gate.run(ctx) }()

	answers := func() string {
		c, err := net.Dial("tcp", real.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		b, _ := io.ReadAll(c)
		return string(b)
	}
	serve := func(l net.Listener, word string) chan error {
		end := make(chan error, 1)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					end <- err
					return
				}
				_, _ = io.WriteString(c, word)
				c.Close()
			}
		}()
		return end
	}
	if got := answers(); got != "" {
		t.Errorf("without a server: %q", got)
	}
	first := gate.lease()
	firstEnd := serve(first, "first")
	if got := answers(); got != "first" {
		t.Errorf("first server: %q", got)
	}
	second := gate.lease()
	secondEnd := serve(second, "second")
	if got := answers(); got != "second" {
		t.Errorf("the newest server takes over: %q", got)
	}
	// The former one ends late; that must not take the gate from its successor.
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	if err := <-firstEnd; !errors.Is(err, net.ErrClosed) {
		t.Errorf("first server ended with %v", err)
	}
	if got := answers(); got != "second" {
		t.Errorf("after the former one's end: %q", got)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	<-secondEnd
	if got := answers(); got != "" {
		t.Errorf("without a server again: %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
	if _, err := net.DialTimeout("tcp", real.Addr().String(), time.Second); err == nil {
		t.Error("the real listener is open after the end")
	}
}
