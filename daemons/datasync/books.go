package datasync

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/id"
)

// packed is one game pack that this node made, as its local books have it. It is written down before anybody else hears of
// the pack, so that a crash neither loses a game nor puts it into two packs.
type packed struct {
	Digest id.Digest           `json:"sha256"`
	Config id.Config           `json:"config"`
	Bytes  int64               `json:"bytes"`
	Made   time.Time           `json:"made"`
	Games  map[string][]string `json:"games"` // job → names of the games that are in the pack
	Safe   bool                `json:"safe"`  // the receipts are there and the news is out
}

// count is how many games are in the pack. Two jobs that hand in one game have handed in one game.
func (p packed) count() int64 {
	distinct := map[string]bool{}
	for _, ids := range p.Games {
		for _, g := range ids {
			distinct[g] = true
		}
	}
	return int64(len(distinct))
}

// named is a game's id in the books. Ids are bytes, and JSON would make one of all that are no UTF-8: read again, the books would
// not know such a game, and it would be packed twice.
func named(gameID string) string {
	if utf8.ValidString(gameID) {
		return gameID
	}
	return "\uFFFD" + strconv.QuoteToASCII(gameID)
}

func names(ids []string) []string {
	out := make([]string, len(ids))
	for i, gameID := range ids {
		out[i] = named(gameID)
	}
	return out
}

// books are the packs of this node, in memory and in Local. One goroutine changes them; any may take a tally.
type books struct {
	local kit.Local
	mu    sync.Mutex // of the maps
	packs map[id.Digest]*packed
	// refused are games that are finished and yet unusable: they will never be in a pack.
	refused map[string][]string
	// aside are databases that cannot be read, kept in quarantine for people, by the path that they had.
	aside map[string]aside
}

// aside is a database of an ended job whose games could not be brought away. They stay unsynced until somebody takes the file
// out of quarantine.
type aside struct {
	JobID  string    `json:"job"`
	Config id.Config `json:"config"`
	Path   string    `json:"path"`
	Where  string    `json:"where"` // in quarantine
	Games  *int64    `json:"games"` // nil: nobody knows
}

const (
	packPrefix    = "pack/"
	refusedPrefix = "refused/"
	asidePrefix   = "aside/"
)

// openBooks reads the books. It judges nothing: whether a pending pack whose bytes are not here is lost depends on who else has
// it, which push finds out.
func openBooks(local kit.Local) (*books, error) {
	b := &books{local: local, packs: map[id.Digest]*packed{}, refused: map[string][]string{}, aside: map[string]aside{}}
	keys, err := local.Keys(packPrefix)
	if err != nil {
		return nil, fmt.Errorf("list packs: %w", err)
	}
	for _, k := range keys {
		var p packed
		if err := b.get(k, &p); err != nil {
			return nil, err
		}
		b.packs[p.Digest] = &p
	}
	if keys, err = local.Keys(refusedPrefix); err != nil {
		return nil, fmt.Errorf("list refused games: %w", err)
	}
	for _, k := range keys {
		var ids []string
		if err := b.get(k, &ids); err != nil {
			return nil, err
		}
		b.refused[strings.TrimPrefix(k, refusedPrefix)] = ids
	}
	if keys, err = local.Keys(asidePrefix); err != nil {
		return nil, fmt.Errorf("list databases put aside: %w", err)
	}
	for _, k := range keys {
		var x aside
		if err := b.get(k, &x); err != nil {
			return nil, err
		}
		b.aside[x.Path] = x
	}
	return b, nil
}

func (b *books) get(key string, into any) error {
	raw, ok, err := b.local.Get(key)
	if err == nil && ok {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	return nil
}

func (b *books) set(key string, v any) error {
	raw, err := json.Marshal(v)
	if err == nil {
		err = b.local.Put(key, raw)
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", key, err)
	}
	return nil
}

func (b *books) add(p packed) error {
	if err := b.set(packPrefix+string(p.Digest), p); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.packs[p.Digest] = &p
	return nil
}

func (b *books) refuse(job string, ids []string) error {
	all := slices.Concat(b.refused[job], names(ids))
	if err := b.set(refusedPrefix+job, all); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused[job] = all
	return nil
}

// useless are the games of a job that were refused.
func (b *books) useless(job string) map[string]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make(map[string]bool, len(b.refused[job]))
	for _, i := range b.refused[job] {
		out[i] = true
	}
	return out
}

// open says that a pack is this node's and not known to be safe yet.
func (b *books) open(d id.Digest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.packs[d]
	return ok && !p.Safe
}

func asideKey(path string) string { return asidePrefix + string(id.DigestOf([]byte(path))) }

// putAside writes down that a database is in quarantine, with the games that are in no pack.
func (b *books) putAside(x aside) error {
	if err := b.set(asideKey(x.Path), x); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.aside[x.Path] = x
	return nil
}

// tended forgets the databases that people have taken out of quarantine.
func (b *books) tended() error {
	for path, x := range b.aside {
		if _, err := os.Lstat(x.Where); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if _, err := os.Lstat(path); err == nil {
			continue // its job is not released yet: the database must not be looked at again
		}
		if err := b.untell(path); err != nil {
			return err
		}
	}
	return nil
}

func (b *books) untell(path string) error {
	if err := b.local.Delete(asideKey(path)); err != nil {
		return fmt.Errorf("forget what was put aside: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.aside, path)
	return nil
}

// settle writes down that a pack is safe; one whose jobs are all gone has nothing left to say.
func (b *books) settle(d id.Digest) error {
	p := *b.packs[d]
	p.Safe = true
	if _, gone := p.Games[released]; gone && len(p.Games) == 1 {
		return b.drop(d)
	}
	return b.add(p)
}

func (b *books) drop(d id.Digest) error {
	if err := b.local.Delete(packPrefix + string(d)); err != nil {
		return fmt.Errorf("forget pack %s: %w", d.Short(), err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.packs, d)
	return nil
}

// pending are the packs that are not safe yet, newest first: on a machine that is about to go the newest games are those
// of which nobody else has anything.
func (b *books) pending() []packed {
	var out []packed
	for _, p := range b.packs {
		if !p.Safe {
			out = append(out, *p)
		}
	}
	slices.SortFunc(out, func(x, y packed) int { return y.Made.Compare(x.Made) })
	return out
}

// tally is what the books say at one moment.
type tally struct {
	known   map[string]map[string]bool // job → games in a pack of any kind, or refused
	pending map[string]bool            // jobs with games in packs that are not safe
	games   map[id.Config]int64        // in packs that are not safe, and put aside
	aside   map[string]bool            // paths of databases that are not looked at any more
	lost    int                        // how many of them hold nobody knows how many games
}

func (b *books) tally() tally {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := tally{known: map[string]map[string]bool{}, pending: map[string]bool{}, games: map[id.Config]int64{}, aside: map[string]bool{}}
	for path, x := range b.aside {
		t.aside[path] = true
		if x.Games == nil {
			t.lost++
		} else {
			t.games[x.Config] += *x.Games
		}
	}
	note := func(job string, ids []string) {
		if t.known[job] == nil {
			t.known[job] = map[string]bool{}
		}
		for _, g := range ids {
			t.known[job][g] = true
		}
	}
	for _, p := range b.packs {
		if !p.Safe {
			t.games[p.Config] += p.count()
		}
		for job, ids := range p.Games {
			note(job, ids)
			t.pending[job] = t.pending[job] || !p.Safe
		}
	}
	for job, ids := range b.refused {
		note(job, ids)
	}
	return t
}

// released stands for all jobs that are gone while a pack with games of theirs is not safe.
const released = ""

// forget drops a released job, and the packs that only it had games in. A pack that is not safe yet stays, whatever has
// become of the job's files: its bytes are in the store.
func (b *books) forget(job string) error {
	for d, p := range b.packs {
		if _, ok := p.Games[job]; !ok {
			continue
		}
		q := *p
		q.Games = maps.Clone(p.Games)
		delete(q.Games, job)
		if !p.Safe {
			q.Games[released] = slices.Concat(q.Games[released], p.Games[job])
		}
		var err error
		if len(q.Games) > 0 {
			err = b.add(q)
		} else {
			err = b.drop(d)
		}
		if err != nil {
			return err
		}
	}
	if err := b.local.Delete(refusedPrefix + job); err != nil {
		return fmt.Errorf("forget job %s: %w", job, err)
	}
	for path, x := range b.aside {
		if x.JobID == job && x.Games != nil && *x.Games == 0 {
			if err := b.untell(path); err != nil {
				return err
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.refused, job)
	return nil
}
