package httpd

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/ringagent/ringagent/agent/api"
)

func serve(t *testing.T, trust Trust, open bool, routes ...Route) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Log: zerolog.Nop(), Token: func() string { return "secret" }, LoopbackOpen: open}, routes)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l, trust) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return "http://" + l.Addr().String()
}

func TestAccess(t *testing.T) {
	t.Parallel()
	routes := []Route{
		{Pattern: "GET /open", Access: Open, Do: func(*http.Request) (any, error) { return api.Done{OK: true}, nil }},
		{Pattern: "GET /read", Access: Read, Do: func(*http.Request) (any, error) { return api.Done{OK: true}, nil }},
		{Pattern: "POST /write", Access: Write, Do: func(*http.Request) (any, error) { return api.Done{OK: true}, nil }},
	}
	cases := []struct {
		name         string
		trust        Trust
		loopbackOpen bool
		method, path string
		token, host  string
		origin       string
		want         int
	}{
		{"socket writes", TrustSocket, false, "POST", "/write", "", "", "", 200},
		{"loopback reads", TrustLoopback, true, "GET", "/read", "", "", "", 200},
		{"loopback closed", TrustLoopback, false, "GET", "/read", "", "", "", 401},
		{"loopback must not write", TrustLoopback, true, "POST", "/write", "", "", "", 401},
		{"loopback writes by token", TrustLoopback, true, "POST", "/write", "secret", "", "", 200},
		{"wrong token", TrustLoopback, true, "POST", "/write", "secre", "", "", 401},
		{"tls must not read", TrustTLS, true, "GET", "/read", "", "", "", 401},
		{"tls reads by token", TrustTLS, true, "GET", "/read", "secret", "", "", 200},
		{"tls liveness", TrustTLS, true, "GET", "/open", "", "", "", 200},
		{"rebound name", TrustLoopback, true, "GET", "/read", "", "evil.example", "", 401},
		{"page of another origin", TrustLoopback, true, "POST", "/write", "secret", "", "http://evil.example", 401},
		{"get never mutates", TrustSocket, true, "GET", "/write", "", "", "", 405},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			base := serve(t, c.trust, c.loopbackOpen, routes...)
			req, err := http.NewRequestWithContext(t.Context(), c.method, base+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.token != "" {
				req.Header.Set("Authorization", "Bearer "+c.token)
			}
			if c.origin != "" {
				req.Header.Set("Origin", c.origin)
			}
			if c.host != "" {
				req.Host = c.host
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != c.want {
				b, _ := io.ReadAll(resp.Body)
				t.Errorf("got %d, want %d: %s", resp.StatusCode, c.want, b)
			}
		})
	}
}

// What no route is for is answered in the form of all errors.
func TestUnroutedIsAnError(t *testing.T) {
	t.Parallel()
	base := serve(t, TrustSocket, true, Route{Pattern: "POST /write/{id}", Access: Write, Do: func(r *http.Request) (any, error) {
		return api.Done{OK: true, Detail: r.PathValue("id")}, nil
	}})
	for _, c := range []struct {
		method, path, code, allow string
		status                    int
	}{
		{"GET", "/nothing", "not_found", "", 404},
		{"GET", "/write/x", "usage", "POST", 405},
		{"POST", "/write/x", "", "", 200},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, base+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Error  struct{ Code, Message string }
			Detail string
		}
		err = json.NewDecoder(res.Body).Decode(&got)
		res.Body.Close()
		if err != nil || res.StatusCode != c.status || got.Error.Code != c.code || res.Header.Get("Allow") != c.allow {
			t.Errorf("%s %s: %d %+v, allow %q, %v", c.method, c.path, res.StatusCode, got, res.Header.Get("Allow"), err)
		}
		if c.code == "" && got.Detail != "x" {
			t.Errorf("the route has %q", got.Detail)
		}
	}
}

func TestDecodeIsStrict(t *testing.T) {
	t.Parallel()
	base := serve(t, TrustSocket, true, Route{Pattern: "POST /x", Access: Write, MaxBody: 64, Do: func(r *http.Request) (any, error) {
		var in struct {
			A int `json:"a"`
		}
		return in, Decode(r, &in)
	}})
	for body, want := range map[string]int{
		`{"a":1}`:        200,
		`{"a":1,"b":2}`:  400,
		`{"a":1}{"a":2}`: 400,
		`{"a":"x"}`:      400,
		``:               400,
		`{"a":` + strings.Repeat(" ", 100) + `1}`: 413,
	} {
		resp, err := http.Post(base+"/x", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		var env api.Envelope
		_ = json.NewDecoder(resp.Body).Decode(&env)
		resp.Body.Close()
		if resp.StatusCode != want || want != 200 && env.Error == nil {
			t.Errorf("%q: got %d (%v), want %d", body, resp.StatusCode, env.Error, want)
		}
	}
}

func TestStreamsLeaveRoomForQuestions(t *testing.T) {
	t.Parallel()
	base := serve(t, TrustLoopback, true,
		Route{Pattern: "GET /tail", Access: Read, Stream: func(w http.ResponseWriter, r *http.Request) error {
			_, _ = io.WriteString(w, "begun\n")
			Flush(w)
			<-r.Context().Done()
			return nil
		}},
		Route{Pattern: "GET /ask", Access: Read, Do: func(*http.Request) (any, error) { return api.Done{OK: true}, nil }},
	)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * maxStreams}}
	t.Cleanup(client.CloseIdleConnections)
	for i := range maxStreams + 3 {
		resp, err := client.Get(base + "/tail")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		want := http.StatusOK
		if i >= maxStreams {
			want = http.StatusServiceUnavailable
		}
		if resp.StatusCode != want {
			t.Fatalf("stream %d: got %d, want %d", i, resp.StatusCode, want)
		}
	}
	resp, err := client.Get(base + "/ask")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("a question beside the streams: got %d", resp.StatusCode)
	}
}
