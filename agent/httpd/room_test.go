package httpd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/agent/api"
)

// pipes is a listener in memory, so that a test can run on a fake clock: what waits for a deadline shows.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-time.After(time.Minute):
		return nil, fmt.Errorf("nobody accepts")
	}
}

// house serves routes on pipes within a bubble.
func house(t *testing.T, routes ...Route) (*pipes, *http.Client) {
	t.Helper()
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	s := New(Config{Log: zerolog.Nop(), LoopbackOpen: true}, routes)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, p, TrustSocket) }()
	client := &http.Client{Transport: &http.Transport{DialContext: p.dial, DisableKeepAlives: true}}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		time.Sleep(2 * shutdownPatience) // streams are cut off after it
	})
	return p, client
}

func yes(*http.Request) (any, error) { return api.Done{OK: true}, nil }

// More connections than there are places, all of which wait on purpose: an operator who comes then is answered at once.
func TestWhoWaitsMakesRoom(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]string{
		"silent":      "",
		"slow header": "GET /ask HTTP/1.1\r\nHo",
		"idle":        "GET /ask HTTP/1.1\r\nHost: agent\r\n\r\n",
		"slow body":   "POST /tell HTTP/1.1\r\nHost: agent\r\nContent-Length: 100\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p, client := house(t, Route{Pattern: "GET /ask", Access: Read, Do: yes}, Route{Pattern: "POST /tell", Access: Write, Do: yes})
				for range maxConnections + maxAnswers {
					c, err := p.dial(t.Context(), "", "")
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { c.Close() })
					go func() {
						_, _ = io.WriteString(c, send)
						_, _ = io.Copy(io.Discard, c)
					}()
					synctest.Wait()
				}
				begin := time.Now()
				resp, err := client.Get("http://agent/ask")
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if waited := time.Since(begin); resp.StatusCode != http.StatusOK || waited > settling {
					t.Errorf("got %d after %s, want 200 within %s", resp.StatusCode, waited, settling)
				}
			})
		})
	}
}

// A crowd that comes at once is served in turn: nobody is thrown out before his question has been read.
func TestACrowdIsServedInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, _ := house(t, Route{Pattern: "GET /ask", Access: Read, Do: yes})
		const crowd = 3 * maxConnections
		answers := make(chan string, crowd)
		for range crowd {
			go func() {
				c, err := p.dial(context.Background(), "", "")
				if err != nil {
					answers <- err.Error()
					return
				}
				defer c.Close()
				time.Sleep(50 * time.Millisecond) // busy itself
				_, _ = io.WriteString(c, "GET /ask HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
				b, err := io.ReadAll(c)
				answers <- fmt.Sprintf("%.15s %v", b, err)
			}()
		}
		for range crowd {
			if a := <-answers; a != "HTTP/1.1 200 OK <nil>" {
				t.Fatalf("one of the crowd got %q", a)
			}
		}
	})
}

// When as many requests are being answered as may be, the next is refused at once and says why; probes are answered.
func TestTooManyRequestsAreToldSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		p, client := house(t,
			Route{Pattern: "GET /slow", Access: Read, Do: func(r *http.Request) (any, error) { <-free; return yes(r) }},
			Route{Pattern: "GET /ask", Access: Read, Do: yes}, Route{Pattern: "GET /healthz", Access: Open, Do: yes})
		for range maxAnswers {
			c, err := p.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				_, _ = io.WriteString(c, "GET /slow HTTP/1.1\r\nHost: agent\r\n\r\n")
				_, _ = io.Copy(io.Discard, c)
			}()
		}
		synctest.Wait()
		ask := func(path string, want int) (env api.Envelope) {
			t.Helper()
			begin := time.Now()
			resp, err := client.Get("http://agent" + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			_ = json.NewDecoder(resp.Body).Decode(&env)
			if resp.StatusCode != want || time.Since(begin) > 0 {
				t.Errorf("%s: got %d after %s, want %d at once", path, resp.StatusCode, time.Since(begin), want)
			}
			return env
		}
		if e := ask("/ask", http.StatusServiceUnavailable).Error; e == nil || e.Code != api.CodeBusy || e.Exit() != 8 || !strings.Contains(e.Message, "256") {
			t.Errorf("refused with %+v", e)
		}
		ask("/healthz", http.StatusOK)
		free <- struct{}{}
		synctest.Wait()
		ask("/ask", http.StatusOK)
		close(free)
	})
}
