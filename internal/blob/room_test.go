package blob

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/ringagent/ringagent/internal/id"
)

// A copy that would fill the disk is not begun.
func TestPutFileIsNotBegunWithoutRoom(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	large := filepath.Join(t.TempDir(), "large")
	data := make([]byte, 1000)
	if err := errors.Join(os.WriteFile(path, data, 0o600), os.WriteFile(large, nil, 0o600), os.Truncate(large, spareBytes)); err != nil {
		t.Fatal(err)
	}
	unknown := errors.New("deliberate")
	for name, c := range map[string]struct {
		free int64
		err  error
		want error
	}{
		"room":              {1000, nil, nil}, // what it frees may be more
		"a byte too little": {999, nil, ErrNoSpace},
		"nobody knows":      {0, unknown, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir())
			s.free = func(string) (int64, error) { return c.free, c.err }
			begun := false
			s.stage = func(f *os.File) io.Writer {
				begun = true
				return f
			}
			_, _, err := s.PutFile(t.Context(), path)
			if !errors.Is(err, c.want) || begun != (c.want == nil) || s.Has(id.DigestOf(data)) != begun {
				t.Errorf("%v, begun %v", err, begun)
			}
			s.free = func(string) (int64, error) { return 2*spareBytes - 1, nil }
			if _, _, err := s.PutFile(t.Context(), large); !errors.Is(err, ErrNoSpace) {
				t.Errorf("a large file leaves no room to others: %v", err)
			}
			s.free = func(string) (int64, error) { return 0, nil }
			if _, _, err := s.PutFile(t.Context(), path); err != nil && c.want == nil {
				t.Errorf("what is there takes no room: %v", err)
			}
		})
	}
}
