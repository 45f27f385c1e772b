package proc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Output is a file that a command owes.
type Output struct {
	// Path is relative to the output directory.
	Path string `json:"path"`
	Kind string `json:"kind"`
	// Min is the least value per counter. When it is empty, every counter that is reported has to be at least 1.
	Min map[string]int64 `json:"min,omitempty"`
	// Optional outputs may be missing; one that is there is checked all the same.
	Optional bool `json:"optional,omitempty"`
}

// Artifact is an output that was found good.
type Artifact struct {
	// Path is absolute.
	Path string `json:"path"`
	Kind string `json:"kind"`
	// Counters are what the validator read from the file, and "bytes".
	Counters map[string]int64 `json:"counters"`
}

// Validator reads a file of one kind as sceptically as it can and returns what it counted in it. It must bound its own
// work and must not change the file.
type Validator func(ctx context.Context, path string) (map[string]int64, error)

// OutputError says which promised output is not there or not good.
type OutputError struct {
	Path, Kind string
	Err        error
}

// Error renders "output PATH (KIND): what is wrong".
func (e *OutputError) Error() string { return fmt.Sprintf("output %s (%s): %v", e.Path, e.Kind, e.Err) }

// Unwrap returns the cause.
func (e *OutputError) Unwrap() error { return e.Err }

// What can be wrong with an output, besides what its validator says.
var (
	ErrMissing  = errors.New("does not exist")
	ErrOld      = errors.New("is older than the run")
	ErrNotFile  = errors.New("is not a regular file")
	ErrTooFew   = errors.New("holds too little")
	ErrNoReader = errors.New("no validator for this kind")
)

// File times are coarser than the clock, by up to a second on some file systems.
const timeSlack = time.Second

// Check proves what a command claims by its exit code: every output exists below dir, is a regular file, is no older than
// since, passes the validator of its kind, and counts enough. Kind "file" needs no validator, every other kind does.
// The first fault is returned, as an *OutputError; ctx bounds the validators.
func Check(ctx context.Context, dir string, since time.Time, outputs []Output, validators map[string]Validator) ([]Artifact, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("check outputs: %w", err)
	}
	defer func() { _ = root.Close() }()
	var found []Artifact
	for _, o := range outputs {
		a, err := checkOne(ctx, root, since, o, validators)
		if errors.Is(err, ErrMissing) && o.Optional {
			continue
		}
		if err != nil {
			return nil, &OutputError{o.Path, o.Kind, err}
		}
		found = append(found, a)
	}
	return found, nil
}

func checkOne(ctx context.Context, root *os.Root, since time.Time, o Output, validators map[string]Validator) (Artifact, error) {
	if err := ctx.Err(); err != nil {
		return Artifact{}, err
	}
	// Root refuses names that lead outside, symbolic links on the way included.
	info, err := root.Lstat(o.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return Artifact{}, ErrMissing
	case err != nil:
		return Artifact{}, err
	case !info.Mode().IsRegular():
		return Artifact{}, fmt.Errorf("%w but %s", ErrNotFile, info.Mode().Type())
	case info.ModTime().Before(since.Add(-timeSlack)):
		return Artifact{}, fmt.Errorf("%w: %s", ErrOld, info.ModTime().UTC().Format(time.RFC3339))
	}
	a := Artifact{Path: filepath.Join(root.Name(), o.Path), Kind: o.Kind, Counters: map[string]int64{"bytes": info.Size()}}
	if validate := validators[o.Kind]; validate != nil {
		counted, err := validate(ctx, a.Path)
		if err != nil {
			return Artifact{}, err
		}
		maps.Copy(a.Counters, counted)
	} else if o.Kind != "file" {
		return Artifact{}, ErrNoReader
	}
	least := o.Min
	if len(least) == 0 {
		least = make(map[string]int64, len(a.Counters))
		for name := range a.Counters {
			least[name] = 1
		}
	}
	for _, name := range slices.Sorted(maps.Keys(least)) {
		if have, counted := a.Counters[name]; !counted || have < least[name] {
			return Artifact{}, fmt.Errorf("%w: %s is %d, want %d or more", ErrTooFew, name, have, least[name])
		}
	}
	return a, nil
}
