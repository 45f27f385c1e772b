package rating

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// pair is two participants, the one whose name comes first as a.
type pair struct{ a, b string }

// record is the games of a pair, from the side of a.
type record struct{ wins, draws, losses int }

func (r record) games() int { return r.wins + r.draws + r.losses }

// sums is all that a rating needs to know of matches that count. A pair may have no games left in it.
type sums map[pair]record

// add counts a match so many times; -1 takes back one that was counted.
func (s sums) add(m Match, times int) {
	p, score := pair{m.A, m.B}, m.Score
	if p.a > p.b {
		p, score = pair{m.B, m.A}, 1-score
	}
	r := s[p]
	switch score {
	case 1:
		r.wins += times
	case 0:
		r.losses += times
	default:
		r.draws += times
	}
	s[p] = r
}

// Tally is what a rating needs of one set of matches: the results of each pair, and eight bytes for each id, by which it
// is seen whether another set may have it too. That is some 10 bytes a match where a list of the matches takes hundreds. It
// does not change, so any number of goroutines may read it.
type Tally struct {
	players  []string
	meetings []tallied
	ids      []uint64 // hashes, ascending, each once
}

// tallied is the record of two players, by their index; a has the name that comes first.
type tallied struct {
	a, b   int32
	record record
}

// NewTally counts the valid matches, each id once as Distinct does.
func NewTally(matches []Match) *Tally { return newTally(matches, idHash) }

func newTally(matches []Match, hash func(string) uint64) *Tally {
	t, s := &Tally{}, sums{}
	for _, m := range matches {
		if Validate(m) == nil {
			t.players = append(t.players, m.A, m.B)
		}
	}
	slices.Sort(t.players)
	t.players = slices.Clone(slices.Compact(t.players))
	distinct := Distinct(matches)
	t.ids = make([]uint64, 0, len(distinct))
	for _, m := range distinct {
		s.add(m, 1)
		t.ids = append(t.ids, hash(m.ID))
	}
	slices.Sort(t.ids)
	t.ids = slices.Compact(t.ids)
	for p, r := range s {
		t.meetings = append(t.meetings, tallied{t.player(p.a), t.player(p.b), r})
	}
	return t
}

func (t *Tally) player(name string) int32 {
	i, _ := slices.BinarySearch(t.players, name)
	return int32(i)
}

// Players names everybody in the matches, in order, also those of whom no match counts. Nobody may change it.
func (t *Tally) Players() []string { return t.players }

// words is what it weighs in words of 8 bytes, roughly.
func (t *Tally) words() int {
	n := len(t.ids) + 4*len(t.meetings)
	for _, name := range t.players {
		n += 2 + len(name)/8 + 1
	}
	return n
}

func (t *Tally) addTo(s sums) {
	for _, m := range t.meetings {
		p := pair{t.players[m.a], t.players[m.b]}
		r := s[p]
		s[p] = record{r.wins + m.record.wins, r.draws + m.record.draws, r.losses + m.record.losses}
	}
}

// idHash need not tell all ids apart: where two are equal, the ids themselves are compared.
func idHash(id string) uint64 {
	sum := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint64(sum[:8])
}

// parts is into how many the hashes are divided to be compared: what is sorted at a time is this part of all of them.
const (
	partBits = 6
	parts    = 1 << partBits
)

// repeated is the hashes, ascending, that more than one of the tallies has.
func repeated(tallies []*Tally) []uint64 {
	var out, part []uint64
	next := make([]int, len(tallies))
	for p := range uint64(parts) {
		part = part[:0]
		for i, t := range tallies {
			for ; next[i] < len(t.ids) && t.ids[next[i]]>>(64-partBits) == p; next[i]++ {
				part = append(part, t.ids[next[i]])
			}
		}
		slices.Sort(part)
		for i := 1; i < len(part); i++ {
			if part[i] == part[i-1] && (i == 1 || part[i] != part[i-2]) {
				out = append(out, part[i])
			}
		}
	}
	return out
}

// common is what two ascending lists share.
func common(x, y []uint64) []uint64 {
	if len(x) > len(y) {
		x, y = y, x
	}
	var out []uint64
	for _, h := range x {
		i, found := slices.BinarySearch(y, h)
		if found {
			out = append(out, h)
		}
		y = y[i:]
	}
	return out
}
