package httpd

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// Whoever asks at an open route may be anybody: a body that is announced there is refused before any of it is read, and
// one without a length is read no further than its first byte.
func TestOpenRoutesTakeNoBody(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]string{
		"announced": "GET /open HTTP/1.1\r\nHost: agent\r\nContent-Length: 1048576\r\n\r\n",
		"in chunks": "GET /open HTTP/1.1\r\nHost: agent\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p, client := house(t, Route{Pattern: "GET /open", Access: Open, Do: yes})
				c, err := p.dial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				begin := time.Now()
				go func() { _, _ = io.WriteString(c, send) }()
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if waited := time.Since(begin); resp.StatusCode != http.StatusRequestEntityTooLarge || waited > settling {
					t.Errorf("got %d after %s, want 413 at once", resp.StatusCode, waited)
				}
				// A probe as they are is answered.
				resp, err = client.Get("http://agent/open")
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("a probe got %d", resp.StatusCode)
				}
			})
		})
	}
}

// One connection over HTTP/2 is told that it may have a few requests at once.
func TestFewRequestsOnOneConnection(t *testing.T) {
	t.Parallel()
	lender := httptest.NewTLSServer(http.NotFoundHandler())
	defer lender.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Log: zerolog.Nop()}, []Route{{Pattern: "GET /open", Access: Open, Do: yes}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	secure := tls.NewListener(l, &tls.Config{Certificates: lender.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}})
	go func() { done <- s.Serve(ctx, secure, TrustTLS) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}()
	c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+strings.Repeat("\x00", 3)+"\x04"+strings.Repeat("\x00", 5)); err != nil {
		t.Fatal(err)
	}
	var head [9]byte
	if _, err := io.ReadFull(c, head[:]); err != nil || head[3] != 4 {
		t.Fatalf("the first frame is of type %d, %v; want settings", head[3], err)
	}
	settings := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
	if _, err := io.ReadFull(c, settings); err != nil {
		t.Fatal(err)
	}
	const maxConcurrentStreams = 3
	for ; len(settings) >= 6; settings = settings[6:] {
		if binary.BigEndian.Uint16(settings) == maxConcurrentStreams {
			if n := binary.BigEndian.Uint32(settings[2:]); n > 16 {
				t.Errorf("%d requests at once on one connection, want 16 at most", n)
			}
			return
		}
	}
	t.Error("no limit is told")
}
