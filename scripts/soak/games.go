package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ringagent/ringagent/internal/gamedb"
)

// finished DIR SINCE IDS: writes the ids of all finished games in a dead node's data dir, of its jobs and of its packs, to the
// file IDS, and prints how many of them its jobs finished after SINCE, in milliseconds.
//
// A game is finished when it is committed. The file has two times that this lies between: when the game was over, and when
// the same job began its next one; the last one of a file was committed before the file's own time. Only a game for which
// the later of the two is before SINCE was finished before.
func finished(ctx context.Context, a []string) error {
	if len(a) != 3 {
		return errors.New("usage: finished DIR SINCE IDS")
	}
	ms, err := strconv.ParseInt(a[1], 10, 64)
	if err != nil {
		return err
	}
	since, after := time.UnixMilli(ms), 0
	ids := map[string]bool{}
	jobs := filepath.Join(a[0], "jobs")
	err = databases(a[0], func(path string, written time.Time) error {
		var games []gamedb.Game
		if err := gamedb.Read(ctx, path, func(g gamedb.Game) error {
			games = append(games, gamedb.Game{ID: g.ID, CreatedAt: g.CreatedAt, CompletedAt: g.CompletedAt})
			return nil
		}); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		slices.SortFunc(games, func(x, y gamedb.Game) int { return x.CompletedAt.Compare(y.CompletedAt) })
		for i, g := range games {
			ids[g.ID] = true
			committed := written
			if i+1 < len(games) {
				committed = games[i+1].CreatedAt
			}
			if committed.After(since) && strings.HasPrefix(path, jobs+string(filepath.Separator)) {
				after++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for g := range ids {
		fmt.Fprintln(&out, g)
	}
	if err := os.WriteFile(a[2], out.Bytes(), 0o600); err != nil {
		return err
	}
	fmt.Println(after)
	return nil
}

// databases finds the SQLite files of a node's jobs and of its store, with the time of the last write to each. The store
// holds other things too, and its unfinished files are nobody's.
func databases(dir string, visit func(path string, written time.Time) error) error {
	for _, sub := range []string{"jobs", "blobs/sha256"} {
		err := filepath.WalkDir(filepath.Join(dir, sub), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || !isSQLite(path) {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			written := info.ModTime()
			if wal, err := os.Stat(path + "-wal"); err == nil && wal.ModTime().After(written) {
				written = wal.ModTime()
			}
			return visit(path, written)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func isSQLite(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var head [16]byte
	_, err = io.ReadFull(f, head[:])
	return err == nil && string(head[:]) == "SQLite format 3\x00"
}

// count DB: reads every game of DB whole and prints how many there are.
func count(ctx context.Context, a []string) error {
	if len(a) != 1 {
		return errors.New("usage: count DB")
	}
	n := 0
	err := gamedb.Read(ctx, a[0], func(gamedb.Game) error { n++; return nil })
	fmt.Println(n)
	return err
}

// missing IDS DB: prints how many of the games in the file IDS are not in the database DB.
func missing(ctx context.Context, a []string) error {
	if len(a) != 2 {
		return errors.New("usage: missing IDS DB")
	}
	f, err := os.Open(a[0])
	if err != nil {
		return err
	}
	defer f.Close()
	have, err := idsOf(ctx, a[1])
	if err != nil {
		return err
	}
	n := 0
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if !have[lines.Text()] {
			n++
		}
	}
	fmt.Println(n)
	return lines.Err()
}

func idsOf(ctx context.Context, path string) (map[string]bool, error) {
	ids, err := gamedb.Finished(ctx, path)
	if err != nil {
		return nil, err
	}
	set := make(map[string]bool, len(ids))
	for _, i := range ids {
		set[i] = true
	}
	return set, nil
}

// readback DIGESTS DB STORE…: reads the packs named in the file DIGESTS, each out of the first STORE that has it, and prints how
// many different games they hold. It fails where a game of them is not in DB, and names the packs that no STORE has.
func readback(ctx context.Context, a []string) error {
	if len(a) < 3 {
		return errors.New("usage: readback DIGESTS DB STORE…")
	}
	list, err := os.ReadFile(a[0])
	if err != nil {
		return err
	}
	have, err := idsOf(ctx, a[1])
	if err != nil {
		return err
	}
	ids := map[string]bool{}
	var gone []string
	for _, d := range strings.Fields(string(list)) {
		path := ""
		for _, store := range a[2:] {
			p := filepath.Join(store, "blobs", "sha256", d[:2], d)
			if _, err := os.Stat(p); err == nil {
				path = p
				break
			}
		}
		if path == "" {
			gone = append(gone, d)
			continue
		}
		pack, err := idsOf(ctx, path)
		if err != nil {
			return err
		}
		for g := range pack {
			if !have[g] {
				return fmt.Errorf("game %s of pack %s is not in %s", g, d, a[1])
			}
			ids[g] = true
		}
	}
	if len(gone) > 0 {
		fmt.Fprintln(os.Stderr, "soak: packs of which no copy is left:", strings.Join(gone, " "))
	}
	fmt.Println(len(ids))
	return nil
}
