package transfer

import (
	"errors"
	"os"
	"testing"

	"github.com/ringagent/ringagent/internal/id"
)

// A fetch that would fill the disk is not begun: the jobs and the log of this node write to the same one.
func TestFetchIsNotBegunWithoutRoom(t *testing.T) {
	t.Parallel()
	data := noise(2*ChunkSize, 31)
	const enough = 4 * ChunkSize
	for name, c := range map[string]struct {
		free []int64 // by call; the last one stays
		err  error   // of asking
		want error
		got  int64 // bytes received
	}{
		"room":              {[]int64{enough}, nil, nil, 2 * ChunkSize},
		"a byte too little": {[]int64{enough - 1}, nil, ErrNoSpace, 0},
		"nobody knows":      {[]int64{0}, errors.New("deliberate"), nil, 2 * ChunkSize},
		"others fill it":    {[]int64{enough, 2*ChunkSize - 1}, nil, ErrNoSpace, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to, ring := newStore(t), newStore(t), newNetwork(t)
			d := from.put(t, data)
			ring.honest(t, good, from)
			calls := 0
			client := newClient(t, to, ring, Options{Free: func(dir string) (int64, error) {
				if dir != to.PartialDir() {
					t.Errorf("asked for %s", dir)
				}
				free := c.free[min(calls, len(c.free)-1)]
				calls++
				return free, c.err
			}})
			_, err := client.Fetch(t.Context(), d, 0, []id.Node{good, other})
			if !errors.Is(err, c.want) || client.Received() != c.got || client.owed != 0 {
				t.Errorf("%v; received %d, still booked %d", err, client.Received(), client.owed)
			}
			if c.want == nil {
				to.has(t, data)
			} else if left, _ := os.ReadDir(to.PartialDir()); len(left) != 0 || ring.dialled(other) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// Room that a fetch under way counts on is not promised to another one.
func TestFetchesDoNotShareTheirRoom(t *testing.T) {
	t.Parallel()
	c := newClient(t, newStore(t), newNetwork(t), Options{Free: func(string) (int64, error) { return 5 * spareBytes, nil }})
	first, second := &fetch{client: c}, &fetch{client: c}
	if err := first.book(3 * spareBytes); err != nil {
		t.Fatal(err)
	}
	if err := second.book(2 * spareBytes); err == nil {
		t.Error("booked twice")
	}
	first.written(2 * spareBytes)
	if err := second.book(2 * spareBytes); err != nil {
		t.Error(err)
	}
	first.written(spareBytes)
	second.written(2 * spareBytes)
	if c.owed != 0 || first.owed != 0 || second.owed != 0 {
		t.Errorf("still booked: %d", c.owed)
	}
}

// A fetch of which every byte is there already needs no room: it is finished on a full disk, too.
func TestFetchOfNothingNeedsNoRoom(t *testing.T) {
	t.Parallel()
	c := newClient(t, newStore(t), newNetwork(t), Options{Free: func(string) (int64, error) { return 0, nil }})
	f := &fetch{client: c}
	if err := f.book(0); err != nil || c.owed != 0 {
		t.Errorf("%v, %d booked", err, c.owed)
	}
	if err := f.book(1); err == nil {
		t.Error("a byte was booked")
	}
}
