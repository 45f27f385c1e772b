package agent

import (
	"context"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// kept answers a view for which nobody knows the state by what this node has itself: the bytes in its own store, and on a rented node
// the names and settings that it heard last. It is nil where that is nothing.
func (a *Agent) kept(ctx context.Context, path string, q url.Values) any {
	r := a.near()
	asOf := api.AsOf{Index: r.s.Index(), AsOf: api.ConfirmedAt(r.fresh.AsOf)}
	switch path {
	case "/api/v1/settings":
		if r.fresh.Known {
			s, version := r.s.Settings()
			return settingsAnswer{Version: version, Settings: s, AsOf: asOf}
		}
	case "/api/v1/models":
		c, err := askedConfig(q)
		history, bad := askedYes(q, "history")
		if err != nil || bad != nil || !r.fresh.Known {
			return nil
		}
		ms := r.models(c, history)
		for i := range ms {
			ms[i].OnNodes = nil // it keeps no artifacts' records
		}
		return api.Models{Models: ms, AsOf: asOf}
	case "/api/v1/artifacts":
		k, c, err := askedArtifacts(q)
		if err != nil {
			return nil
		}
		if rows, err := a.ownCopies(ctx, r, "", k, c); err == nil {
			return onlyHere(rows)
		}
	case "/api/v1/artifacts/where":
		if rows, err := a.ownCopies(ctx, r, q.Get("sha256"), "", ""); err == nil && len(rows) == 1 {
			return onlyHere(rows)
		}
	}
	return nil
}

func onlyHere(rows []api.Artifact) api.Artifacts {
	return api.Artifacts{Artifacts: rows, OnlyHere: true, AsOf: api.AsOf{AsOf: api.Confirmed{Unknown: true}}}
}

// ownCopies lists the artifacts in this node's store with what can be told of them without the ring: packs are looked into, datasets
// and models have second names, champions are named. Of the others the kind is unknown, and they are in no list of a kind.
func (a *Agent) ownCopies(ctx context.Context, r reading, prefix string, k ring.Kind, c id.Config) ([]api.Artifact, error) {
	all, err := a.store.blobs.List()
	if err != nil {
		return nil, err
	}
	named := r.named()
	linked := a.linked()
	out := []api.Artifact{}
	for _, info := range all {
		if !strings.HasPrefix(string(info.Digest), prefix) {
			continue
		}
		row := api.Artifact{SHA256: info.Digest, Bytes: info.Size, Holders: []string{a.node.Name}, Names: named[info.Digest]}
		if row.Names == nil && r.fresh.Known {
			row.Names = []string{}
		}
		if l, ok := linked[info.Digest.Short()]; ok {
			row.Kind, row.Config = l.Kind, l.Config
		} else if k == "" || k == ring.KindPack {
			asPack(ctx, a.store.blobs.Path(info.Digest), &row)
		}
		if (k == "" || row.Kind == k) && (c == "" || row.Config == c) {
			out = append(out, row)
		}
	}
	return out, ctx.Err()
}

// linked are the kinds and configs of the artifacts that have a second name, by the beginning of their hash: see link.
func (a *Agent) linked() map[string]ring.Artifact {
	out := map[string]ring.Artifact{}
	for dir, kind := range map[string]ring.Kind{"datasets": ring.KindDataset, "models": ring.KindModel} {
		entries, _ := os.ReadDir(a.dir.path(dir)) // without them less is known, and no more
		for _, e := range entries {
			name := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name()))
			if i := strings.LastIndex(name, "-"); i > 0 {
				out[name[i+1:]] = ring.Artifact{Kind: kind, Config: id.Config(name[:i])}
			}
		}
	}
	return out
}

// asPack fills in what a file says of itself, if it is a database of games of one config.
func asPack(ctx context.Context, path string, row *api.Artifact) {
	const magic = "SQLite format 3\x00"
	f, err := os.Open(path)
	if err != nil {
		return
	}
	head := make([]byte, len(magic))
	_, err = io.ReadFull(f, head)
	f.Close()
	if err != nil || string(head) != magic {
		return
	}
	n, err := gamedb.CountFinished(ctx, path)
	if err != nil || len(n.Configs) != 1 {
		return
	}
	row.Kind, row.Counters = ring.KindPack, map[string]int64{"games": int64(n.Games)}
	for c := range n.Configs {
		row.Config = c
	}
}
