package rating

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ringagent/ringagent/internal/id"
)

// stored writes valid matches as a file under its digest.
func stored(t rapid.TB, dir string, matches []Match) (id.Digest, string) {
	t.Helper()
	var b bytes.Buffer
	if err := Encode(&b, matches); err != nil {
		t.Fatal(err)
	}
	d := id.DigestOf(b.Bytes())
	path := filepath.Join(dir, string(d))
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return d, path
}

// take is a file as somebody who rates has it: read only if the book does not know it.
func take(b *Book, d id.Digest, path string) (File, error) {
	t, ok := b.Tally(d)
	if !ok {
		matches, err := ReadVerified(path, d)
		if err != nil {
			return File{}, err
		}
		t = b.Add(d, matches)
	}
	return File{Digest: d, Path: path, Tally: t}, nil
}

// foldFiles rates files that were stored before.
func foldFiles(t *rapid.T, b *Book, paths map[id.Digest]string) map[string]Rating {
	var files []File
	for d, path := range paths {
		f, err := take(b, d, path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	got, unread := b.Fold(files, pinned())
	if len(unread) > 0 {
		t.Fatal(unread)
	}
	return got
}

// Files rated by their tallies have the ratings of all their matches in one list, to the bit: with ids that stand twice in one
// file and in several, with hashes that do not tell ids apart, in books of every size, and for any part of the files.
func TestBookRatesAsTheWholeListDoes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		b := NewBook(rapid.SampledFrom([]int{0, 70, 200, 1000, DefaultWords}).Draw(t, "words"))
		if n := rapid.SampledFrom([]uint64{0, 1, 5}).Draw(t, "hashes"); n > 0 {
			b.hash = func(s string) uint64 {
				h := fnv.New64a()
				_, _ = h.Write([]byte(s))
				return h.Sum64() % n << 60
			}
		}
		all := map[id.Digest][]Match{}
		paths := map[id.Digest]string{}
		for i := range rapid.IntRange(0, 6).Draw(t, "files") {
			matches := slices.DeleteFunc(drawMatches(t), func(m Match) bool { return Validate(m) != nil })
			if rapid.Bool().Draw(t, "own ids") {
				for k := range matches {
					matches[k].ID = fmt.Sprint(i, "-", matches[k].ID)
				}
			}
			d, path := stored(t, dir, matches)
			all[d], paths[d] = matches, path
		}
		for range 3 {
			var list []Match
			part := map[id.Digest]string{}
			for d, matches := range all {
				if rapid.Bool().Draw(t, "take") {
					list, part[d] = append(list, matches...), paths[d]
				}
			}
			if diff := cmp.Diff(Fold(list, pinned()), foldFiles(t, b, part)); diff != "" { // no tolerance
				t.Fatal(diff)
			}
			if b.used > b.limit {
				t.Fatalf("%d words in a book of %d", b.used, b.limit)
			}
		}
	})
}

// What has been rated once is rated again without its files, also where they have ids in common.
func TestBookOpensNoFileASecondTime(t *testing.T) {
	t.Parallel()
	dir, b := t.TempDir(), NewBook(DefaultWords)
	one, two := series("a", "heuristic", 6, 2, 4), series("a", "heuristic", 0, 0, 8)
	for i := range two[:4] { // four of one id, and earlier
		two[i].Time = two[i].Time.AddDate(0, 0, -1)
	}
	var want map[string]Rating
	for round := range 3 {
		var files []File
		for _, matches := range [][]Match{one, two, series("b", "a", 3, 0, 1)} {
			d, path := stored(t, dir, matches)
			if round > 0 {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			f, err := take(b, d, path)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			files = append(files, f)
		}
		got, unread := b.Fold(files, pinned())
		if len(unread) > 0 {
			t.Fatalf("round %d: %v", round, unread)
		}
		if round == 0 {
			want = Fold(slices.Concat(one, two, series("b", "a", 3, 0, 1)), pinned())
		}
		if diff := cmp.Diff(want, got); diff != "" || got["heuristic"].Games != 12 {
			t.Errorf("round %d: %s", round, diff)
		}
	}
}

// A file that has to be read again and is gone, or has become another, is left out whole and told.
func TestBookLeavesOutWhatCannotBeReadAgain(t *testing.T) {
	t.Parallel()
	dir, b := t.TempDir(), NewBook(DefaultWords)
	sets := [][]Match{series("a", "heuristic", 6, 2, 4), series("a", "heuristic", 0, 0, 8), series("a", "heuristic", 1, 1, 2), series("b", "a", 3, 0, 1)}
	var files []File
	for _, matches := range sets {
		d, path := stored(t, dir, matches)
		f, err := take(b, d, path)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if err := errors.Join(os.Remove(files[0].Path), os.WriteFile(files[1].Path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	at := files[1]
	at.Path, at.Matches = "", sets[1]
	if got, _ := b.Fold([]File{at, files[2]}, pinned()); !cmp.Equal(got, Fold(slices.Concat(sets[1:3]...), pinned())) {
		t.Errorf("with the matches of a file at hand: %v", got)
	}
	b = NewBook(DefaultWords)
	got, unread := b.Fold(files, pinned())
	if len(unread) != 2 || !errors.Is(unread[files[0].Digest], fs.ErrNotExist) || !errors.Is(unread[files[1].Digest], ErrAltered) {
		t.Errorf("unread: %v", unread)
	}
	if diff := cmp.Diff(Fold(slices.Concat(sets[2:]...), pinned()), got); diff != "" {
		t.Error(diff)
	}
}

// A full book keeps what it has and takes no more.
func TestBookIsBounded(t *testing.T) {
	t.Parallel()
	b := NewBook(10 * (tallyWords + NewTally(series("m0", "heuristic", 6, 2, 4)).words()))
	for i := range 1000 {
		b.Add(id.DigestOf(fmt.Append(nil, i)), series(fmt.Sprint("m", i), "heuristic", 6, 2, 4))
	}
	if len(b.tallies) != 10 || b.used != b.limit {
		t.Errorf("%d tallies, %d of %d words", len(b.tallies), b.used, b.limit)
	}
	if _, ok := b.Tally(id.DigestOf([]byte("0"))); !ok {
		t.Error("the first has given way")
	}
}

// The names of the players are told also where another match has their id.
func TestTallyNamesEverybody(t *testing.T) {
	t.Parallel()
	matches := slices.Concat(series("a", "b", 1, 0, 0), series("c", "b", 1, 0, 0))
	matches[1].ID = matches[0].ID
	if got := NewTally(matches).Players(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Error(got)
	}
}

// Good lines of another file are not its matches, and only right bytes can be said to be of no use for ever.
func TestReadVerified(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d, path := stored(t, dir, series("a", "b", 1, 0, 1))
	if got, err := ReadVerified(path, d); err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"another score": strings.Replace(string(good), `"score":0`, `"score":1`, 1), "no json": "x" + string(good), "cut": string(good[:20]), "nothing": "",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadVerified(path, d); !errors.Is(err, ErrAltered) || errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	junk := []byte("x\n" + strings.Repeat("y", 1<<20))
	if err := os.WriteFile(path, junk, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadVerified(path, id.DigestOf(junk)); !errors.Is(err, ErrInvalid) || errors.Is(err, ErrAltered) {
		t.Error(err)
	}
	if _, err := ReadVerified(path+"x", d); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestHashesInCommon(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var tallies []*Tally
		times := map[uint64]int{}
		for range rapid.IntRange(0, 5).Draw(t, "tallies") {
			set := rapid.SliceOfNDistinct(rapid.Uint64Range(0, 40), 0, 20, rapid.ID).Draw(t, "hashes")
			for i := range set {
				set[i] = set[i]<<59 | set[i]
				times[set[i]]++
			}
			slices.Sort(set)
			tallies = append(tallies, &Tally{ids: set})
		}
		var want []uint64
		for h, n := range times {
			if n > 1 {
				want = append(want, h)
			}
		}
		slices.Sort(want)
		got := repeated(tallies)
		if !slices.Equal(got, want) {
			t.Fatalf("repeated %x, want %x", got, want)
		}
		for _, x := range tallies {
			both := slices.DeleteFunc(slices.Clone(x.ids), func(h uint64) bool { return !slices.Contains(got, h) })
			if a, b := common(x.ids, got), common(got, x.ids); !slices.Equal(a, both) || !slices.Equal(b, both) {
				t.Fatalf("%x and %x share %x, or %x", x.ids, got, a, b)
			}
		}
	})
}

// The unknowns go in the order of a plain search for the fewest neighbours, and the inverse is that of a solution for each
// unit vector, to the bit.
func TestEliminationAgainstThePlainWay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 30).Draw(t, "unknowns")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		m, plain := newMatrix(n), newMatrix(n)
		for i := range n {
			m.diagonal[i] = 50 + rng.Float64()
		}
		for range rapid.IntRange(0, 2*n).Draw(t, "pairs") {
			if i, j := rng.IntN(n), rng.IntN(n); i != j {
				v := -rng.Float64()
				m.set(i, j, v)
				plain.set(i, j, v)
			}
		}
		f := m.factor()
		left := map[int]bool{}
		for i := range n {
			left[i] = true
		}
		for _, p := range f {
			first := -1
			for i := range n {
				if left[i] && (first < 0 || len(plain.rows[i]) < len(plain.rows[first])) {
					first = i
				}
			}
			if p.row != first {
				t.Fatalf("%d eliminated, %d has the fewest neighbours", p.row, first)
			}
			plain.eliminate(first)
			delete(left, first)
		}
		unit := make([]float64, n)
		for i, got := range f.inverseDiagonal() {
			unit[i] = 1
			if want := f.solve(unit)[i]; math.Float64bits(got) != math.Float64bits(want) {
				t.Fatalf("unknown %d: %v, want %v", i, got, want)
			}
			unit[i] = 0
		}
	})
}

// BenchmarkFold rates candidates of whom every tenth becomes the champion that the next ones meet.
func BenchmarkFold(b *testing.B) {
	for _, n := range []int{1000, 4000, 16000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, champion := sums{}, "m0"
			for g := 1; g <= n; g++ {
				m := fmt.Sprint("m", g)
				for _, x := range slices.Concat(series(m, champion, 6, 1, 5), series(m, "heuristic", 3, 0, 1)) {
					s.add(x, 1)
				}
				if g%10 == 0 {
					champion = m
				}
			}
			for b.Loop() {
				s.rate(pinned())
			}
		})
	}
}
