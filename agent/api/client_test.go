package api

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dying listens as an agent that says the head of an answer and a part of its body, and is gone; wait keeps it there instead.
func dying(t *testing.T, said string, wait bool) *Client {
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
			go func() {
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 4096))
				_, _ = io.WriteString(conn, strings.ReplaceAll(said, "\n", "\r\n"))
				if wait {
					<-t.Context().Done()
				}
			}()
		}
	}()
	return NewClient(l.Addr().String())
}

const (
	halfStream = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n6\n{\"ok\":\n"
	halfJSON   = "HTTP/1.1 200 OK\nContent-Length: 100\n\n{\"ok\":"
	halfError  = "HTTP/1.1 409 Conflict\nContent-Length: 100\n\n{\"error\":"
	openEnd    = "HTTP/1.1 200 OK\nConnection: close\n\n{\"ok\":"
	noBody     = "HTTP/1.1 200 OK\nContent-Length: 0\n\n"
)

// An agent that dies in the middle of an answer is out of reach; a script has to know it from a refusal.
func TestAnswerThatBreaksOffIsUnreachable(t *testing.T) {
	t.Parallel()
	for _, said := range []string{halfJSON, halfStream, halfError, openEnd, noBody, ""} {
		var out map[string]any
		err := dying(t, said, false).Get(t.Context(), "/x", nil, &out)
		if got := AsError(err); err == nil || got.Exit() != 3 {
			t.Errorf("%q: %v, exit %d, want 3", said, err, got.Exit())
		}
	}
	body, err := dying(t, halfStream, false).Stream(t.Context(), "/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	if AsError(err).Code != CodeUnreachable || string(b) != `{"ok":` {
		t.Errorf("stream: %q, %v", b, err)
	}
	body, err = dying(t, "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", false).Stream(t.Context(), "/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if b, err := io.ReadAll(body); err != nil || string(b) != "hello" {
		t.Errorf("a whole answer: %q, %v", b, err)
	}
}

// Whoever gave up waiting was not left by the agent.
func TestAnswerThatIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var out map[string]any
	if err := dying(t, halfJSON, true).Get(ctx, "/x", nil, &out); AsError(err).Code != CodeTimeout {
		t.Errorf("deadline: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	body, err := dying(t, halfStream, true).Stream(ctx, "/x", nil)
	if err == nil {
		defer body.Close()
		_, err = io.ReadAll(body)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
