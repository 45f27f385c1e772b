package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/httpd"
	"github.com/ringagent/ringagent/eventlog"
	"github.com/ringagent/ringagent/internal/id"
)

// streamBlob sends an artifact's bytes; a node that has none fetches them first.
func (a *Agent) streamBlob(w http.ResponseWriter, r *http.Request) error {
	d, err := a.bytesOf(r.Context(), strings.ToLower(r.PathValue("sha256")))
	if err != nil {
		return err
	}
	f, err := a.store.blobs.Open(d)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(st.Size(), 10))
	_, err = io.Copy(w, f)
	return err
}

// bytesOf sees to it that the bytes of an artifact are here. A rented node, which would have to ask for what the ring knows of it,
// and one that finds nobody to ask, go by their own store if the whole hash is given: bytes that have it are the right ones.
func (a *Agent) bytesOf(ctx context.Context, prefix string) (id.Digest, error) {
	d, bad := id.ParseDigest(prefix)
	own := func() bool { return bad == nil && a.store.blobs.Has(d) && a.store.checked(ctx, d) == nil }
	if a.node.Class == id.Edge && own() {
		return d, nil
	}
	rd, err := a.read(ctx)
	if err != nil {
		if own() {
			return d, nil
		}
		return "", err
	}
	art, err := rd.prefixed(prefix)
	if err != nil {
		return "", err
	}
	if _, err := a.store.read(ctx, art); err != nil {
		return "", api.Errorf(api.CodeFailed, "get artifact %s: %v", art.Digest.Short(), err)
	}
	return art.Digest, nil
}

// streamEvents is the log as JSON lines, from this node's replica or another's.
func (a *Agent) streamEvents(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if _, err := askedYes(q, "follow"); err != nil { // before another node's stream has begun
		return err
	}
	if n := q.Get("node"); n != "" {
		m, err := a.find(n)
		if err != nil {
			return err
		}
		if m.ID != a.node.ID {
			return a.streamRemoteEvents(w, r, m.ID)
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	return a.writeTail(r.Context(), w, func() { httpd.Flush(w) }, q)
}

// writeTail writes this node's replica as JSON lines.
func (a *Agent) writeTail(ctx context.Context, w io.Writer, flush func(), q url.Values) error {
	from, filter, err := a.tailFrom(q)
	if err != nil {
		return err
	}
	limit, err := number(q, "limit")
	if err != nil {
		return err
	}
	follow, err := askedYes(q, "follow")
	if err != nil {
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if follow {
		flush() // so that the reader knows that it is heard before the first event comes
	}
	sent := uint64(0)
	for rec, err := range a.replica.Tail(ctx, from, filter, follow) {
		var gap *eventlog.Compacted
		switch {
		case errors.As(err, &gap):
			if err := enc.Encode(api.CompactedLine{Compacted: api.Compacted{From: gap.From, To: gap.To, Oldest: gap.Oldest}}); err != nil {
				return err
			}
			continue
		case errors.Is(err, eventlog.ErrClosed), err != nil && ctx.Err() != nil: // a reader who has gone does not hear it
			return endedStream()
		case err != nil:
			return err
		}
		if err := enc.Encode(rec.Line()); err != nil {
			return err
		}
		if sent++; limit > 0 && sent >= limit {
			return nil
		}
		if follow {
			flush()
		}
	}
	return nil
}

// endedStream is what a follower is told by an agent that ends: more would have come.
func endedStream() error {
	return api.Errorf(api.CodeUnreachable, "the agent has ended the stream").
		WithHint("it was stopped; go on with --after and the last seq once it is back")
}

// streamRemoteEvents passes on what another node's replica says.
func (a *Agent) streamRemoteEvents(w http.ResponseWriter, r *http.Request, n id.Node) error {
	body, err := a.mesh.Stream(r.Context(), n, methodTail, r.URL.Query())
	if err != nil {
		return meshError(err)
	}
	defer body.Close()
	w.Header().Set("Content-Type", "application/x-ndjson")
	httpd.Flush(w)
	buf := make([]byte, 32<<10)
	for {
		k, err := body.Read(buf)
		if k > 0 {
			if _, werr := w.Write(buf[:k]); werr != nil {
				return werr
			}
			httpd.Flush(w)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return meshError(err)
		}
	}
}

func number(q url.Values, name string) (uint64, error) {
	s := q.Get(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, api.Errorf(api.CodeInvalid, "%s %q: want a whole number from 0 on", name, s)
	}
	return n, nil
}

func (a *Agent) tailFrom(q url.Values) (eventlog.Start, eventlog.Filter, error) {
	var f eventlog.Filter
	if t := q.Get("type"); t != "" {
		if _, err := path.Match(t, ""); err != nil {
			return eventlog.Start{}, f, api.Errorf(api.CodeInvalid, "type %q: %v", t, err)
		}
		f.Types = []string{t}
	}
	if o := q.Get("origin"); o != "" {
		m, err := a.find(o)
		if err != nil {
			return eventlog.Start{}, f, err
		}
		f.Node = m.ID
	}
	if s := q.Get("since"); s != "" {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return eventlog.Start{}, f, api.Errorf(api.CodeInvalid, "since %q: want an RFC 3339 time", s)
		}
		return eventlog.Since(t), f, nil
	}
	if q.Has("after") {
		n, err := number(q, "after")
		return eventlog.After(n), f, err
	}
	return eventlog.Now(), f, nil
}
