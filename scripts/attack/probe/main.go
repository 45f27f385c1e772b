// Command probe is what the attack scripts need beyond a shell: reading JSON, and talking to the agent's port as people,
// browsers and strangers do.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("usage: probe field|count|keys|http|raw|idle|halftls|scan|emptydb …"))
	}
	verbs := map[string]func([]string) error{"field": field, "count": count, "keys": keys, "http": request, "raw": raw, "idle": idle, "halftls": halfTLS, "scan": scan, "emptydb": emptyDB}
	f, ok := verbs[os.Args[1]]
	if !ok {
		fail(fmt.Errorf("unknown verb %q", os.Args[1]))
	}
	if err := f(os.Args[2:]); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "probe:", err)
	os.Exit(1)
}

func at(path string) (any, error) {
	dec := json.NewDecoder(os.Stdin)
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if path == "." || path == "" {
		return v, nil
	}
	for _, p := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			y, ok := x[p]
			if !ok {
				return nil, fmt.Errorf("no field %s in %s", p, path)
			}
			v = y
		case []any:
			i, err := strconv.Atoi(p)
			if err != nil || i < 0 || i >= len(x) {
				return nil, fmt.Errorf("no element %s in %s", p, path)
			}
			v = x[i]
		default:
			return nil, fmt.Errorf("nothing below %s in %s", p, path)
		}
	}
	return v, nil
}

// field PATH prints one value: text bare, anything else as JSON.
func field(a []string) error {
	v, err := at(a[0])
	if err != nil {
		return err
	}
	if s, ok := v.(string); ok {
		fmt.Println(s)
		return nil
	}
	b, err := json.Marshal(v)
	fmt.Println(string(b))
	return err
}

// count PATH prints the length of a list or object.
func count(a []string) error {
	v, err := at(a[0])
	if err != nil {
		return err
	}
	switch x := v.(type) {
	case []any:
		fmt.Println(len(x))
	case map[string]any:
		fmt.Println(len(x))
	case nil:
		return errors.New("null, want a list")
	default:
		return errors.New("neither list nor object")
	}
	return nil
}

// keys PATH NAME…: the object at PATH (or the first of the list there) has all these fields; a list must be one, even empty.
func keys(a []string) error {
	v, err := at(a[0])
	if err != nil {
		return err
	}
	if l, ok := v.([]any); ok {
		if len(l) == 0 {
			fmt.Println("empty list, nothing to look at")
			return nil
		}
		v = l[0]
	}
	m, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s is no object", a[0])
	}
	var missing []string
	for _, k := range a[1:] {
		if _, ok := m[k]; !ok {
			missing = append(missing, k)
		}
	}
	if len(missing) > 0 {
		have := make([]string, 0, len(m))
		for k := range m {
			have = append(have, k)
		}
		sort.Strings(have)
		return fmt.Errorf("missing %v; there are %v", missing, have)
	}
	return nil
}

// request METHOD URL [Header: value]… [@BODYBYTES | =BODY]: prints the status, then the body's first KiB. TLS is not verified:
// what is asked here is how the server guards itself.
func request(a []string) error {
	var body io.Reader
	headers := http.Header{}
	host := ""
	for _, h := range a[2:] {
		switch {
		case strings.HasPrefix(h, "@"):
			n, err := strconv.Atoi(h[1:])
			if err != nil {
				return err
			}
			body = io.MultiReader(strings.NewReader(`{"x":"`), io.LimitReader(filler{}, int64(n)), strings.NewReader(`"}`))
		case strings.HasPrefix(h, "="):
			body = strings.NewReader(h[1:])
		default:
			k, v, _ := strings.Cut(h, ":")
			if strings.EqualFold(k, "Host") {
				host = strings.TrimSpace(v)
				continue
			}
			headers.Set(k, strings.TrimSpace(v))
		}
	}
	r, err := http.NewRequest(a[0], a[1], body)
	if err != nil {
		return err
	}
	r.Header = headers
	if host != "" {
		r.Host = host
	}
	c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode)
	_, err = io.Copy(os.Stdout, io.LimitReader(resp.Body, 1024))
	fmt.Println()
	return err
}

type filler struct{}

func (filler) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

// raw ADDR COUNT KIND: COUNT connections that send rubbish and see whether the agent closes them within 30 s.
func raw(a []string) error {
	n, err := strconv.Atoi(a[1])
	if err != nil {
		return err
	}
	payload := map[string][]byte{
		"zeros": make([]byte, 4096), "ff": bytes.Repeat([]byte{0xff}, 4096), "slow": []byte("GET / HT"),
		"headers":  []byte("GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n" + strings.Repeat("X-A: "+strings.Repeat("b", 1000)+"\r\n", 2000) + "\r\n"),
		"line":     []byte("GET /" + strings.Repeat("a", 1<<20) + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
		"smuggle":  []byte("POST /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n"),
		"h2":       []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
		"slowbody": []byte("POST /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{"),
		"silent":   nil, "tlsjunk": append([]byte{0x16, 0x03, 0x01, 0xff, 0xff}, bytes.Repeat([]byte{1}, 8192)...),
	}[a[2]]
	limit := 30 * time.Second
	if len(a) > 3 {
		if limit, err = time.ParseDuration(a[3]); err != nil {
			return err
		}
	}
	var open atomic.Int64
	var first atomic.Value
	var g sync.WaitGroup
	for range n {
		g.Add(1)
		go func() {
			defer g.Done()
			c, err := net.DialTimeout("tcp", a[0], 10*time.Second)
			if err != nil {
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(limit))
			go func() { _, _ = c.Write(payload) }()
			b, err := io.ReadAll(io.LimitReader(c, 4096))
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				open.Add(1)
			}
			if len(b) > 0 {
				first.CompareAndSwap(nil, strings.SplitN(string(b), "\r\n", 2)[0])
			}
		}()
	}
	g.Wait()
	answer, _ := first.Load().(string)
	fmt.Printf("%s: %d connections, %d still open after %s, answer %q\n", a[2], n, open.Load(), limit, answer)
	if open.Load() > 0 {
		return errors.New("connections stay open")
	}
	return nil
}

// halfTLS ADDR COUNT: begins handshakes and stops in the middle.
func halfTLS(a []string) error {
	n, err := strconv.Atoi(a[1])
	if err != nil {
		return err
	}
	var open atomic.Int64
	var g sync.WaitGroup
	for range n {
		g.Add(1)
		go func() {
			defer g.Done()
			c, err := net.DialTimeout("tcp", a[0], 10*time.Second)
			if err != nil {
				return
			}
			defer c.Close()
			// A client hello cut in half: take a true one from the library, and send its first part only.
			p, q := net.Pipe()
			go func() { _ = tls.Client(p, &tls.Config{InsecureSkipVerify: true, ServerName: "x"}).Handshake() }()
			hello := make([]byte, 4096)
			k, _ := q.Read(hello)
			p.Close()
			q.Close()
			_ = c.SetDeadline(time.Now().Add(30 * time.Second))
			_, _ = c.Write(hello[:k/2])
			_, err = io.ReadAll(io.LimitReader(c, 4096))
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				open.Add(1)
			}
		}()
	}
	g.Wait()
	fmt.Printf("%d half handshakes, %d still open after 30 s\n", n, open.Load())
	if open.Load() > 0 {
		return errors.New("half handshakes stay open")
	}
	return nil
}

// idle URL COUNT SECONDS [Header: value]: holds COUNT followed tails open; prints how many were taken and how many still live
// at the end.
func idle(a []string) error {
	n, err := strconv.Atoi(a[1])
	if err != nil {
		return err
	}
	secs, err := strconv.Atoi(a[2])
	if err != nil {
		return err
	}
	host := strings.TrimPrefix(strings.TrimPrefix(a[0], "http://"), "https://")
	host, path, _ := strings.Cut(host, "/")
	var taken, live, refused, bytesIn atomic.Int64
	var g sync.WaitGroup
	end := time.Now().Add(time.Duration(secs) * time.Second)
	for range n {
		g.Add(1)
		go func() {
			defer g.Done()
			c, err := net.DialTimeout("tcp", host, 20*time.Second)
			if err != nil {
				refused.Add(1)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(end)
			extra := ""
			for _, h := range a[3:] {
				extra += h + "\r\n"
			}
			fmt.Fprintf(c, "GET /%s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, host, extra)
			r := bufio.NewReader(c)
			line, err := r.ReadString('\n')
			if err != nil || !strings.Contains(line, " 200 ") {
				refused.Add(1)
				return
			}
			taken.Add(1)
			k, err := io.Copy(io.Discard, r)
			bytesIn.Add(k)
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				live.Add(1)
			}
		}()
	}
	g.Wait()
	fmt.Printf("asked %d, taken %d, refused %d, still live at the end %d, bytes %d\n", n, taken.Load(), refused.Load(), live.Load(), bytesIn.Load())
	return nil
}

// scan SECRETFILE PATH…: looks for each line of SECRETFILE in all regular files below the paths, and names where it stands.
func scan(a []string) error {
	b, err := os.ReadFile(a[0])
	if err != nil {
		return err
	}
	var secrets [][]byte
	for _, l := range bytes.Split(b, []byte("\n")) {
		if len(l) >= 12 {
			secrets = append(secrets, l)
		}
	}
	return scanPaths(secrets, a[1:])
}
