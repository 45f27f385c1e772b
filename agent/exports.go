package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ringagent/ringagent/internal/blob"
	"github.com/ringagent/ringagent/internal/disk"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/id"
)

// workGames builds what an export reads: one database with at least the games of the packs.
type workGames struct{ a *Agent }

// Merged implements worker.Games. What is not on this disk yet is fetched first.
func (g workGames) Merged(ctx context.Context, c id.Config, packs []id.Digest) (string, error) {
	dir := g.a.dir.path("staging")
	g.sweep(dir) // before anything is fetched: it may be what the disk is full of
	path := filepath.Join(dir, fmt.Sprintf(exportPrefix+"%s-%s.db", c, hex.EncodeToString(newNonce())))
	sorted, err := g.expand(ctx, packs)
	if err != nil {
		return "", err
	}
	files := make([]string, 0, len(sorted))
	for _, d := range sorted {
		pack, err := g.pack(ctx, d)
		if err != nil {
			return "", err
		}
		if pack != "" {
			files = append(files, pack)
		}
	}
	out, err := gather(ctx, path, files, c, disk.Free)
	if err != nil {
		return "", err
	}
	if len(out) > 0 {
		g.a.log.Warn().Str("config", string(c)).Int("left_out", len(out)).Str("game", out[0].ID).Str("pack", filepath.Base(out[0].Pack)).
			Str("reason", out[0].Reason).Msg("games or whole packs are left out of an export")
	}
	return path, nil
}

// pack is where a pack is, fetched if need be; "" if it is no good one, which keeps the others out of no export.
func (g workGames) pack(ctx context.Context, d id.Digest) (string, error) {
	path, err := g.a.store.Ensure(ctx, d)
	var bad *unfit
	switch {
	case errors.As(err, &bad):
		g.a.log.Warn().Err(err).Str("pack", d.Short()).Msg("a pack is left out of an export")
		return "", nil
	case err != nil:
		return "", fmt.Errorf("get pack %s: %w", d.Short(), err)
	}
	return path, nil
}

// gather leaves nothing of what failed: on a disk that it has filled there would be no next export to sweep it away.
// Packs that take more than there is room for are not begun with: a full disk ends the other jobs here, too.
func gather(ctx context.Context, path string, packs []string, c id.Config, free func(dir string) (int64, error)) ([]gamedb.Rejection, error) {
	need, largest := int64(exportSpare), int64(0) // which is in SQLite's own log before it is in the file
	for _, p := range packs {
		if st, err := os.Stat(p); err == nil {
			need, largest = need+st.Size(), max(largest, st.Size())
		}
	}
	need += largest
	if room, err := free(filepath.Dir(path)); err == nil && room < need {
		return nil, fmt.Errorf("gather %d packs: %d MiB of disk are free, %d are needed: %w", len(packs), room>>20, need>>20, blob.ErrNoSpace)
	}
	out, err := gamedb.Gather(ctx, path, packs, c)
	if err != nil {
		err = errors.Join(err, gamedb.Remove(path))
	}
	return out, err
}

const (
	exportPrefix = "export-"
	// exportKept is how long an export's input stays: longer than any job takes to open it.
	exportKept = time.Hour
	// exportSpare is what stays free on the disk beside it.
	exportSpare = 64 << 20
)

func outlived(path string) bool {
	st, err := os.Stat(path)
	return err != nil || time.Since(st.ModTime()) > exportKept
}

// sweep removes what earlier exports have read.
func (g workGames) sweep(dir string) {
	old, _ := fs.Glob(os.DirFS(dir), exportPrefix+"*") // the pattern is ours and sound
	for _, name := range old {
		if path := filepath.Join(dir, name); outlived(path) {
			_ = os.Remove(path)
		}
	}
}

// expand replaces lists of packs by what they list, and sorts.
func (g workGames) expand(ctx context.Context, packs []id.Digest) ([]id.Digest, error) {
	var out []id.Digest
	for _, d := range packs {
		path, err := g.pack(ctx, d)
		if err != nil {
			return nil, err
		}
		if path == "" {
			continue
		}
		if gamedb.IsDatabase(path) {
			out = append(out, d)
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read list of packs: %w", err)
		}
		for _, line := range strings.Fields(string(b)) {
			listed, err := id.ParseDigest(line)
			if err != nil {
				return nil, fmt.Errorf("list of packs %s: %w", d.Short(), err)
			}
			out = append(out, listed)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
