package gamedb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ringagent/ringagent/internal/id"
)

// shelf makes packs of a few games for ledgers.
type shelf struct {
	dir, src string
	packs    map[string]string
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{dir: t.TempDir(), packs: map[string]string{}}
	s.src = filepath.Join(s.dir, "src.db")
	var games []Game
	for n := range 8 {
		games = append(games, sampleGame(n))
	}
	writeGames(t, s.src, games...)
	return s
}

// entered is a pack as a test enters it.
type entered struct {
	seq   uint64
	games []int
}

func (e entered) entry() Entry {
	return Entry{Seq: e.seq, Digest: id.DigestOf(fmt.Append(nil, e.seq, e.games))}
}

func (s *shelf) path(t *testing.T, games []int) string {
	t.Helper()
	key := fmt.Sprint(games)
	if s.packs[key] == "" {
		var ids []string
		for _, n := range games {
			ids = append(ids, sampleGame(n).ID)
		}
		path := filepath.Join(s.dir, fmt.Sprintf("%d.pack", len(s.packs)))
		if _, err := Pack(t.Context(), s.src, path, ids); err != nil {
			t.Fatal(err)
		}
		s.packs[key] = path
	}
	return s.packs[key]
}

func (s *shelf) enter(t *testing.T, ledger string, e entered, gone ...entered) map[id.Digest]Entered {
	t.Helper()
	var digests []id.Digest
	for _, g := range gone {
		digests = append(digests, g.entry().Digest)
	}
	changed, err := Supersede(t.Context(), ledger, s.path(t, e.games), e.entry(), digests)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// book is all that a ledger says.
type book struct {
	Packs  map[id.Digest]Entered
	Firsts map[string]id.Digest
	Again  map[string]bool
	Sizes  map[id.Digest]int
	Rest   int // rows of packs that are not there
}

func readBook(t *testing.T, path string) book {
	t.Helper()
	packs, err := Repeats(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	b := book{Packs: packs, Firsts: map[string]id.Digest{}, Again: map[string]bool{}, Sizes: map[id.Digest]int{}}
	l, err := openLedger(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	rows, err := l.QueryContext(t.Context(), `SELECT 'first', game_id, p.sha256, 0 FROM firsts f LEFT JOIN packs p ON p.n = f.pack
		UNION ALL SELECT 'again', game_id, p.sha256, 0 FROM again a LEFT JOIN packs p ON p.n = a.pack
		UNION ALL SELECT 'size', '', p.sha256, games FROM sizes s LEFT JOIN packs p ON p.n = s.pack`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var kind, game string
		var pack *id.Digest
		var n int
		if err := rows.Scan(&kind, &game, &pack, &n); err != nil {
			t.Fatal(err)
		}
		switch {
		case pack == nil:
			b.Rest++
		case kind == "first":
			b.Firsts[game] = *pack
		case kind == "again":
			b.Again[game+" "+string(*pack)] = true
		default:
			b.Sizes[*pack] = n
		}
	}
	return b
}

// anew is the book of a ledger of these packs alone.
func (s *shelf) anew(t *testing.T, packs ...entered) book {
	t.Helper()
	path := filepath.Join(t.TempDir(), "anew.ledger")
	for _, p := range packs {
		if _, err := Enter(t.Context(), path, s.path(t, p.games), p.entry()); err != nil {
			t.Fatal(err)
		}
	}
	return readBook(t, path)
}

// A ledger of which packs have left says what one says that has never seen them, in whatever order they came.
func TestSupersededPacksLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		gone, stay []entered
		joined     entered
		never      []entered // also named as gone
	}{
		"plain":                  {gone: []entered{{1, []int{1, 2}}, {2, []int{3}}}, joined: entered{3, []int{1, 2, 3}}},
		"beside others":          {gone: []entered{{1, []int{1}}, {4, []int{2}}}, stay: []entered{{2, []int{5, 6}}}, joined: entered{5, []int{1, 2}}},
		"in the oldest's place":  {gone: []entered{{1, []int{1, 2}}, {5, []int{3}}}, stay: []entered{{3, []int{2, 3}}}, joined: entered{1, []int{1, 2, 3}}},
		"in the newest's place":  {gone: []entered{{1, []int{1, 2}}, {5, []int{3}}}, stay: []entered{{3, []int{2, 3}}}, joined: entered{5, []int{1, 2, 3}}},
		"last, two heirs":        {gone: []entered{{1, []int{1, 2}}}, stay: []entered{{4, []int{2}}, {3, []int{2, 7}}}, joined: entered{9, []int{1, 2}}},
		"repeats that leave":     {gone: []entered{{2, []int{1, 2}}, {3, []int{1, 2}}}, stay: []entered{{1, []int{1}}, {4, []int{2}}}, joined: entered{2, []int{1, 2, 3}}},
		"a game is lost":         {gone: []entered{{1, []int{1, 2, 3}}}, joined: entered{2, []int{1, 2}}},
		"a lost one has an heir": {gone: []entered{{1, []int{1, 2, 3}}, {2, []int{3}}}, stay: []entered{{4, []int{3}}, {5, []int{3, 4}}}, joined: entered{6, []int{1, 2}}},
		"never entered":          {gone: []entered{{1, []int{1}}}, stay: []entered{{2, []int{4}}}, joined: entered{3, []int{1, 2, 4}}, never: []entered{{7, []int{2}}}},
		"nothing left":           {joined: entered{3, []int{1}}, never: []entered{{7, []int{2}}}},
		"itself":                 {gone: []entered{{1, []int{1}}}, joined: entered{3, []int{1}}, never: []entered{{3, []int{1}}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t)
			want := s.anew(t, append(c.stay, c.joined)...)
			before := append(append([]entered{}, c.gone...), c.stay...)
			for _, known := range []bool{false, true} { // the joined pack may have been entered before
				packs := before
				if known {
					packs = append(packs[:len(packs):len(packs)], c.joined)
				}
				orders := permutations(len(packs))
				for i := 0; i < len(orders); i += 1 + len(orders)/7 {
					order := orders[i]
					path := filepath.Join(s.dir, fmt.Sprintf("%v-%d.ledger", known, i))
					told := map[id.Digest]Entered{}
					for _, k := range order {
						maps.Copy(told, s.enter(t, path, packs[k]))
					}
					maps.Copy(told, s.enter(t, path, c.joined, append(c.never, c.gone...)...))
					for _, g := range c.gone {
						delete(told, g.entry().Digest)
					}
					if diff := cmp.Diff(want, readBook(t, path)); diff != "" {
						t.Fatalf("joined pack known %v, order %v: %s", known, order, diff)
					}
					if diff := cmp.Diff(want.Packs, told); diff != "" {
						t.Fatalf("joined pack known %v, order %v, told: %s", known, order, diff)
					}
					if again := s.enter(t, path, c.joined, c.gone...); len(again) > 0 || !cmp.Equal(want, readBook(t, path)) {
						t.Fatalf("order %v: the same call changed %v", order, again)
					}
				}
			}
		})
	}
}

// Packs come, leave and come again at random.
func TestLedgerOfAnyHistory(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	rng := rand.New(rand.NewPCG(3, 5))
	for run := range 4 {
		path := filepath.Join(s.dir, fmt.Sprintf("%d.ledger", run))
		var there []entered
		for step := range 15 {
			var next entered
			for next.seq = uint64(1 + rng.IntN(6)); len(next.games) == 0; {
				for n := range 5 {
					if rng.IntN(2) == 0 {
						next.games = append(next.games, n)
					}
				}
			}
			var gone, stay []entered
			for _, p := range there {
				switch {
				case p.entry() == next.entry():
				case rng.IntN(3) == 0:
					gone = append(gone, p)
				default:
					stay = append(stay, p)
				}
			}
			s.enter(t, path, next, gone...)
			there = append(stay, next)
			if diff := cmp.Diff(s.anew(t, there...), readBook(t, path)); diff != "" {
				t.Fatalf("run %d, step %d: %s", run, step, diff)
			}
		}
	}
}

// A ledger of an older version says of no repeat which game it is: with repeats it is made anew, without it goes on.
func TestSupersedeInAnOlderLedger(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	old := []string{"DROP TABLE again", "DROP TABLE sizes"}
	a, b, joined := entered{1, []int{1, 2}}, entered{2, []int{3}}, entered{3, []int{1, 2, 3}}

	path := filepath.Join(s.dir, "plain.ledger")
	s.enter(t, path, a)
	s.enter(t, path, b)
	execSQL(t, path, old...)
	s.enter(t, path, joined, a, b)
	if diff := cmp.Diff(s.anew(t, joined), readBook(t, path)); diff != "" {
		t.Error(diff)
	}

	path = filepath.Join(s.dir, "repeats.ledger")
	s.enter(t, path, a)
	s.enter(t, path, entered{5, []int{2}})
	execSQL(t, path, old...)
	s.enter(t, path, b) // Enter alone asks for nothing new
	_, err := Supersede(t.Context(), path, s.path(t, joined.games), joined.entry(), []id.Digest{a.entry().Digest})
	if !errors.Is(err, ErrLedger) {
		t.Error(err)
	}
	if packs, err := Repeats(t.Context(), path); err != nil || len(packs) != 3 {
		t.Errorf("half of it was done: %v %v", packs, err)
	}
}

// A call that fails changes nothing.
func TestSupersedeIsOneTransaction(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	path := filepath.Join(s.dir, "c.ledger")
	a, joined := entered{1, []int{1, 2}}, entered{3, []int{1, 2, 3}}
	s.enter(t, path, a)
	before := readBook(t, path)
	gone := []id.Digest{a.entry().Digest}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Supersede(cancelled, path, s.path(t, joined.games), joined.entry(), gone); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := Supersede(t.Context(), path, filepath.Join(s.dir, "none"), joined.entry(), gone); err == nil {
		t.Error("no error without the pack")
	}
	execSQL(t, path, "CREATE TRIGGER full BEFORE UPDATE ON packs BEGIN SELECT raise(ABORT, 'the disk is full'); END")
	if _, err := Supersede(t.Context(), path, s.path(t, joined.games), joined.entry(), gone); err == nil {
		t.Error("no error on a full disk")
	}
	if diff := cmp.Diff(before, readBook(t, path)); diff != "" {
		t.Error(diff)
	}
}

// An id that a pack has in several storage classes is one game to the ledger, whichever pack comes first.
func TestLedgerOfAnIDInTwoClasses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	packs := []string{oddPack(t, filepath.Join(dir, "a"), oddTables("", ""), oddGame("'5'", ended)),
		oddPack(t, filepath.Join(dir, "b"), oddTables("", ""), oddGame("'5'", ended), oddGame("5", ended))}
	for i, order := range permutations(2) {
		path := filepath.Join(dir, fmt.Sprintf("%d.ledger", i))
		for _, k := range order {
			if _, err := Enter(t.Context(), path, packs[k], Entry{Seq: uint64(k), Digest: id.DigestOf([]byte{byte(k)})}); err != nil {
				t.Fatal(err)
			}
		}
		if got := readBook(t, path).Packs[id.DigestOf([]byte{1})]; got.Repeats != 1 {
			t.Errorf("order %v: %+v", order, got)
		}
	}
}
