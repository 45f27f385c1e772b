package rating

import (
	"maps"
	"slices"
	"sync"

	"github.com/ringagent/ringagent/internal/id"
)

// Book rates files of matches and remembers what it needs of each, by digest: a file is read once, not for every rating.
// Files are immutable, so what is remembered is never wrong; whether a file still is to be had, its owner asks elsewhere.
//
// It is bounded. A full book takes no more, and files that are not in it are read for each rating: every rating asks for
// all files in turn, so whichever were thrown out would be the next to be asked for.
//
// Any number of goroutines may use it.
type Book struct {
	limit int                 // of used
	hash  func(string) uint64 // of ids

	mu      sync.Mutex
	used    int // words of 8 bytes, roughly
	tallies map[id.Digest]*Tally
	games   map[id.Digest]games
}

// games are the matches of a file whose ids other files have too, by the hash of the id.
type games map[uint64][]Match

// The default size of a book, and what its contents are taken to weigh in words of 8 bytes beside what Tally.words counts.
const (
	// DefaultWords is 256 MiB: some 30 million matches in files of hundreds.
	DefaultWords = 32 << 20
	tallyWords   = 16
	gameWords    = 40
)

// NewBook makes an empty book of at most so many words of 8 bytes.
func NewBook(words int) *Book {
	return &Book{limit: words, hash: idHash, tallies: map[id.Digest]*Tally{}, games: map[id.Digest]games{}}
}

// Tally is that of a file if the book remembers it.
func (b *Book) Tally(d id.Digest) (*Tally, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, ok := b.tallies[d]
	return t, ok
}

// Add counts the matches of a file, which must be those of its verified bytes, and remembers the result if there is room.
func (b *Book) Add(d id.Digest, matches []Match) *Tally {
	if t, ok := b.Tally(d); ok {
		return t
	}
	t := newTally(matches, b.hash)
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.tallies[d]; !ok && b.take(tallyWords+t.words()) {
		b.tallies[d] = t
	}
	return t
}

// take makes room if there is any; b is locked.
func (b *Book) take(words int) bool {
	if b.used+words > b.limit {
		return false
	}
	b.used += words
	return true
}

// File is a file of matches that is here.
type File struct {
	Digest  id.Digest
	Path    string
	Tally   *Tally
	Matches []Match // all of the file, if they are at hand: it is not read again then, and cannot be left out
}

// Fold rates everybody in the files, each of which is given once and counted by this book, exactly as the function Fold does from all their matches.
// Files are opened again only for ids that they are found to have in common with others, and once for each as long as there
// is room: of the matches with one id the earliest of all counts.
// Files that then cannot be read are left out, and told with the reason.
func (b *Book) Fold(files []File, pins map[string]float64) (map[string]Rating, map[id.Digest]error) {
	left := map[id.Digest]error{}
	for {
		s, bad := b.sum(files)
		if len(bad) == 0 {
			return s.rate(pins), left
		}
		maps.Copy(left, bad)
		files = slices.DeleteFunc(slices.Clone(files), func(f File) bool { return bad[f.Digest] != nil })
	}
}

// sum adds the tallies up. Matches whose ids are in several files are taken back, and the one that counts is put in.
func (b *Book) sum(files []File) (sums, map[id.Digest]error) {
	s, tallies := sums{}, make([]*Tally, len(files))
	for i, f := range files {
		tallies[i] = f.Tally
		f.Tally.addTo(s)
	}
	bad := map[id.Digest]error{}
	hashes := repeated(tallies)
	if len(hashes) == 0 {
		return s, bad
	}
	first := map[string]Match{} // by id
	for _, f := range files {
		wanted := common(f.Tally.ids, hashes)
		if len(wanted) == 0 {
			continue
		}
		found, err := b.find(f, wanted)
		if err != nil {
			bad[f.Digest] = err
			continue
		}
		for _, h := range wanted {
			for _, m := range found[h] {
				s.add(m, -1)
				if other, ok := first[m.ID]; !ok || compare(m, other) < 0 {
					first[m.ID] = m
				}
			}
		}
	}
	for _, m := range first {
		s.add(m, 1)
	}
	return s, bad
}

// find returns, out of the matches of a file that count in it, at least all with the wanted hashes, and remembers them if
// there is room.
func (b *Book) find(f File, wanted []uint64) (games, error) {
	b.mu.Lock()
	have := b.games[f.Digest]
	b.mu.Unlock()
	if !slices.ContainsFunc(wanted, func(h uint64) bool { return have[h] == nil }) {
		return have, nil
	}
	matches := f.Matches
	if matches == nil {
		var err error
		if matches, err = ReadVerified(f.Path, f.Digest); err != nil {
			return nil, err
		}
	}
	found, n := games{}, 0
	for _, m := range Distinct(matches) {
		h := b.hash(m.ID)
		if _, want := slices.BinarySearch(wanted, h); want || have[h] != nil {
			found[h] = append(found[h], m)
			n++
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if have := len(b.games[f.Digest]); b.take((n - have) * gameWords) {
		b.games[f.Digest] = found
	}
	return found, nil
}
