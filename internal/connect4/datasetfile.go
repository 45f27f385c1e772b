package connect4

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ringagent/ringagent/internal/npz"
)

// ErrDataset is what errors about an NPZ file that does not fit this network are.
var ErrDataset = errors.New("not a usable training set")

const (
	encoderVersion = "connect4-planes-6"
	exportVersion  = "2.1"
	maxPlayers     = 4 // the width of values_mp, whatever the game
)

// floats and ints list what is written, in the order of the file.
func (d *dataset) floats() []floatArray {
	return []floatArray{
		{"features", []int{d.n, planes, Rows, Columns}, d.features},
		{"values", []int{d.n}, d.values},
		{"policy_values", []int{d.n, Columns}, d.policyValues},
		{"globals", []int{d.n, globalFeatures}, d.globals},
		{"search_values", []int{d.n}, d.searchValues},
		{"sample_weights", []int{d.n}, d.weights},
	}
}

func (d *dataset) ints() []intArray {
	return []intArray{
		{"policy_indices", []int{d.n, Columns}, d.policyIndices},
		{"move_numbers", []int{d.n}, d.moveNumbers},
		{"total_game_moves", []int{d.n}, d.gameMoves},
	}
}

type floatArray struct {
	name  string
	shape []int
	data  []float32
}

type intArray struct {
	name  string
	shape []int
	data  []int32
}

// perPlayer spreads the values over the players: the side to move and its opponent have opposite ones.
func (d *dataset) perPlayer() (values []float32, players []int32) {
	values, players = make([]float32, d.n*maxPlayers), make([]int32, d.n)
	for i, v := range d.values {
		mover := int(d.moveNumbers[i]) % Players
		values[i*maxPlayers+mover] = v
		values[i*maxPlayers+1-mover] = -v
		players[i] = Players
	}
	return values, players
}

// save writes the dataset as an NPZ file, whole or not at all.
func (d *dataset) save(path string) error {
	w, err := npz.Create(path)
	if err != nil {
		return fmt.Errorf("write dataset: %w", err)
	}
	defer w.Discard()
	// The writer keeps its first error until Close, so the calls need no checks of their own.
	floats, ints := d.floats(), d.ints()
	values, players := d.perPlayer()
	floats = append(floats, floatArray{"values_mp", []int{d.n, maxPlayers}, values})
	ints = append(ints, intArray{"num_players", []int{d.n}, players})
	sums := make(map[string]string, len(floats)+len(ints))
	for _, a := range floats {
		_ = w.Float32(a.name, a.shape, a.data)
		sums[a.name] = checksum(a.shape, "float32", len(a.data), func(i int) uint32 { return math.Float32bits(a.data[i]) })
	}
	for _, a := range ints {
		_ = w.Int32(a.name, a.shape, a.data)
		sums[a.name] = checksum(a.shape, "int32", len(a.data), func(i int) uint32 { return uint32(a.data[i]) })
	}
	for _, s := range []struct{ name, text string }{
		{"board_type", Board}, {"policy_encoding", "column"}, {"encoder_type", "planes"},
		{"encoder_version", encoderVersion}, {"export_version", exportVersion},
	} {
		_ = w.String(s.name, s.text)
	}
	for _, s := range []struct {
		name string
		n    int
	}{
		{"board_size", Columns}, {"spatial_size", Columns}, {"history_length", 0}, {"feature_version", 1},
		{"in_channels", planes}, {"policy_size", Columns}, {"max_policy_index", Columns - 1}, {"policies_normalized", 1},
		{"game_count", d.games},
	} {
		_ = w.Int32(s.name, nil, []int32{int32(s.n)})
	}
	if err := writeJSON(w, "metadata", d.metadata()); err != nil {
		return err
	}
	if err := writeJSON(w, "data_checksums", sums); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write dataset: %w", err)
	}
	return nil
}

func writeJSON(w *npz.Writer, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return w.String(name, string(b))
}

// metadata holds no time of export: the same games make the same bytes.
func (d *dataset) metadata() map[string]any {
	return map[string]any{"newest_game_time": d.newest.UTC().Format(time.RFC3339Nano), "game_count": d.games, "sample_count": d.n}
}

// checksum is the SHA-256 over an array's shape and type, as Python prints them, and its bytes.
func checksum(shape []int, dtype string, n int, word func(int) uint32) string {
	h := sha256.New()
	dims := make([]string, len(shape))
	for i, s := range shape {
		dims[i] = strconv.Itoa(s)
	}
	text := "(" + strings.Join(dims, ", ")
	if len(shape) == 1 {
		text += ","
	}
	h.Write([]byte(text + ")" + dtype))
	block := make([]byte, 0, 16<<10)
	for i := range n {
		block = binary.LittleEndian.AppendUint32(block, word(i))
		if len(block) == cap(block) || i == n-1 {
			h.Write(block)
			block = block[:0]
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// loadDataset reads the arrays that a training needs. A file without search_values or sample_weights will do.
func loadDataset(path string) (*dataset, error) {
	r, err := npz.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load dataset: %w", err)
	}
	defer r.Close()
	var d dataset
	shape, features, err := r.Float32("features")
	if err != nil {
		return nil, fmt.Errorf("load dataset: %w", err)
	}
	if len(shape) != 4 || shape[0] < 1 || shape[1] != planes || shape[2] != Rows || shape[3] != Columns {
		return nil, fmt.Errorf("load dataset: features have shape %v, want (N, %d, %d, %d): %w", shape, planes, Rows, Columns, ErrDataset)
	}
	d.n, d.features = shape[0], features
	read := func(name string, width int, optional bool) []float32 {
		if err != nil {
			return nil
		}
		shape, data, rerr := r.Float32(name)
		if optional && errors.Is(rerr, npz.ErrNoArray) {
			return nil
		}
		if err = rerr; err == nil && len(data) != d.n*width {
			err = fmt.Errorf("%s has shape %v for %d samples: %w", name, shape, d.n, ErrDataset)
		}
		return data
	}
	d.values = read("values", 1, false)
	d.policyValues = read("policy_values", Columns, false)
	d.searchValues = read("search_values", 1, true)
	d.weights = read("sample_weights", 1, true)
	if err == nil {
		var shape []int
		if shape, d.policyIndices, err = r.Int32("policy_indices"); err == nil && len(d.policyIndices) != d.n*Columns {
			err = fmt.Errorf("policy_indices has shape %v: %w", shape, ErrDataset)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("load dataset: %w", err)
	}
	if _, count, cerr := r.Int32("game_count"); cerr == nil && len(count) == 1 {
		d.games = int(count[0])
	}
	return &d, nil
}
