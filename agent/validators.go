package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/ringagent/ringagent/internal/connect4"
	"github.com/ringagent/ringagent/internal/gamedb"
	"github.com/ringagent/ringagent/internal/npz"
	"github.com/ringagent/ringagent/internal/proc"
	"github.com/ringagent/ringagent/internal/rating"
	"github.com/ringagent/ringagent/internal/ring"
)

// fit looks into the bytes of an artifact. What is wrong with them is a *unfit; any other error says nothing of
// them. Games of a newer version may be kept for others, though nobody here can read them.
func fit(ctx context.Context, a ring.Artifact, path string) error {
	check, ok := validators()[string(a.Kind)]
	if !ok {
		return nil
	}
	counters, err := check(ctx, path)
	if err == nil {
		err = asCounted(a, counters)
	}
	switch {
	case err == nil || errors.Is(err, gamedb.ErrNewerSchema):
		return nil
	case ofMachine(ctx, a.Kind, err):
		return fmt.Errorf("validate %s: %w", a.Kind, err)
	}
	return &unfit{kind: a.Kind, err: err}
}

// asCounted refuses a pack that has not got the games that its record counts. Without the receipts of those who look, what one node says
// of its packs is not counted. What was counted before anybody looked stays so.
func asCounted(a ring.Artifact, counters map[string]int64) error {
	if said, have := a.Counters[ring.CounterGames], counters[ring.CounterGames]; a.Kind == ring.KindPack && !a.Safe && said != have {
		return fmt.Errorf("%d games are counted in it, and %d are there: %w", said, have, gamedb.ErrUnsafe)
	}
	return nil
}

// ofMachine tells what is wrong with this machine, such as a disk that fails or too many open files, from what is wrong with
// a file.
func ofMachine(ctx context.Context, kind ring.Kind, err error) bool {
	var errno syscall.Errno
	return ctx.Err() != nil || errors.As(err, &errno) ||
		kind == ring.KindPack && !gamedb.Damaged(err) && !errors.Is(err, gamedb.ErrNewerSchema)
}

// unfit says that bytes are no good artifact of their kind. They are the same everywhere, so no other copy is better.
type unfit struct {
	kind ring.Kind
	err  error
}

func (u *unfit) Error() string { return fmt.Sprintf("no good %s: %v", u.kind, u.err) }
func (u *unfit) Unwrap() error { return u.err }

// Refused lets package transfer know that nobody need be asked for these bytes again.
func (u *unfit) Refused() bool { return true }

// jobValidators are for what a job has left. Its games database may still have a write-ahead log beside it, because this
// node's sync daemon was reading when the job closed it: it is read as a live file, in a snapshot.
func jobValidators() map[string]proc.Validator {
	out := validators()
	out[string(ring.KindPack)] = func(ctx context.Context, path string) (map[string]int64, error) {
		// What no pack can take would be refused later, game by game, when the job is long done.
		if err := gamedb.Usable(ctx, path); err != nil {
			return nil, err
		}
		c, err := gamedb.Count(ctx, path)
		if err != nil {
			return nil, err
		}
		return map[string]int64{"games": int64(c.Games)}, nil
	}
	return out
}

// validators look into a file by kind, without ever running what is in it, and count what it holds.
func validators() map[string]proc.Validator {
	return map[string]proc.Validator{
		string(ring.KindPack): func(ctx context.Context, path string) (map[string]int64, error) {
			if err := gamedb.Verify(ctx, path); err != nil {
				return nil, err
			}
			c, err := gamedb.Count(ctx, path)
			if err != nil {
				return nil, err
			}
			return map[string]int64{"games": int64(c.Games)}, nil
		},
		string(ring.KindDataset): func(_ context.Context, path string) (map[string]int64, error) {
			s, err := npz.Verify(path)
			if err != nil {
				return nil, err
			}
			return map[string]int64{"samples": int64(s.Samples)}, nil
		},
		string(ring.KindMatches): func(_ context.Context, path string) (map[string]int64, error) {
			ms, err := rating.ReadMatches(path)
			if err != nil {
				return nil, err
			}
			return countMatches(ms), nil
		},
		string(ring.KindModel): validateModel,
	}
}

// builtinModel is how the built-in workload's model files begin.
const builtinModel = "RA-C4NET"

// validateModel checks what can be told without the model's own program: the built-in format's checksum, or a checkpoint's
// zip magic; anything must be more than a few bytes.
func validateModel(_ context.Context, path string) (map[string]int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, 8)
	n, _ := f.ReadAt(head, 0)
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case n == 8 && string(head) == builtinModel:
		if _, err := connect4.LoadModel(path); err != nil {
			return nil, err
		}
	case n >= 4 && string(head[:4]) == "PK\x03\x04":
		if st.Size() < 10<<10 {
			return nil, fmt.Errorf("checkpoint of %d bytes is too small to be one", st.Size())
		}
	default:
		return nil, errors.New("it begins neither as a model of the built-in workload nor as a checkpoint in a zip file")
	}
	return map[string]int64{"models": 1}, nil
}

func countMatches(ms []rating.Match) map[string]int64 {
	out := map[string]int64{"matches": int64(len(ms)), "games": int64(len(ms))}
	for _, m := range ms {
		key := "vs:" + m.B + ":"
		out[key+"games"]++
		switch m.Score {
		case 1:
			out[key+"wins"]++
		case 0:
			out[key+"losses"]++
		default:
			out[key+"draws"]++
		}
	}
	return out
}
