package connect4

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
)

// A model file is: modelMagic; version (u32); length of the header (u32); the header, JSON; the parameters (f32); and
// the SHA-256 of all that. Numbers are little-endian.
const (
	modelMagic   = "RA-C4NET"
	modelVersion = 1
	maxModelSize = 16 << 20
	maxHeader    = 64 << 10
)

// ErrModel is what errors about a file that is not a sound model are.
var ErrModel = errors.New("not a usable model file")

// ModelInfo is the header of a model file.
type ModelInfo struct {
	Format       string  `json:"format"`
	Architecture []int   `json:"architecture"`
	Parent       string  `json:"parent_sha256,omitempty"`
	Dataset      string  `json:"dataset_sha256,omitempty"`
	Seed         uint64  `json:"seed"`
	Samples      int     `json:"samples"`
	Epochs       int     `json:"epochs"`
	Loss         float64 `json:"loss"`
}

// Model is a network with where it comes from.
type Model struct {
	Net  *Network
	Info ModelInfo
	// Digest is the SHA-256 of the whole file in hex, the model's identity. It is set by LoadModel and SaveModel.
	Digest string
}

func architecture() []int { return []int{Inputs, hidden1, hidden2, outputs} }

func (m *Model) encode() ([]byte, error) {
	m.Info.Format, m.Info.Architecture = "connect4-mlp", architecture()
	header, err := json.Marshal(m.Info)
	if err != nil {
		return nil, fmt.Errorf("encode model header: %w", err)
	}
	b := make([]byte, 0, len(modelMagic)+8+len(header)+4*parameters+sha256.Size)
	b = append(b, modelMagic...)
	b = binary.LittleEndian.AppendUint32(b, modelVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(header)))
	b = append(b, header...)
	for _, w := range m.Net.p {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(w))
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

func decodeModel(b []byte) (*Model, error) {
	prefix := len(modelMagic) + 8
	if len(b) < prefix+sha256.Size || string(b[:len(modelMagic)]) != modelMagic {
		return nil, fmt.Errorf("%w: no %s magic", ErrModel, modelMagic)
	}
	body := b[:len(b)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], b[len(body):]) {
		return nil, fmt.Errorf("%w: checksum differs", ErrModel)
	}
	if v := binary.LittleEndian.Uint32(b[len(modelMagic):]); v != modelVersion {
		return nil, fmt.Errorf("%w: version %d, want %d", ErrModel, v, modelVersion)
	}
	size := binary.LittleEndian.Uint32(b[len(modelMagic)+4:])
	if size > maxHeader || prefix+int(size)+4*parameters != len(body) {
		return nil, fmt.Errorf("%w: %d bytes do not fit this network", ErrModel, len(b))
	}
	m := &Model{Net: &Network{p: make([]float32, parameters)}}
	if err := json.Unmarshal(body[prefix:prefix+int(size)], &m.Info); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrModel, err)
	}
	weights := body[prefix+int(size):]
	for i := range m.Net.p {
		w := math.Float32frombits(binary.LittleEndian.Uint32(weights[4*i:]))
		if math.IsNaN(float64(w)) || math.IsInf(float64(w), 0) {
			return nil, fmt.Errorf("%w: parameter %d is not a number", ErrModel, i)
		}
		m.Net.p[i] = w
	}
	whole := sha256.Sum256(b)
	m.Digest = hex.EncodeToString(whole[:])
	return m, nil
}

// LoadModel reads and checks a model file. What is wrong with the file itself is an ErrModel; a missing one is an
// fs.ErrNotExist.
func LoadModel(path string) (*Model, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() > maxModelSize {
		return nil, fmt.Errorf("load model %s: %w: %d bytes", path, ErrModel, st.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	m, err := decodeModel(b)
	if err != nil {
		return nil, fmt.Errorf("load model %s: %w", path, err)
	}
	return m, nil
}

// SaveModel writes m under path, whole or not at all, and sets its digest.
func SaveModel(path string, m *Model) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	if err := writeAtomic(path, b); err != nil {
		return fmt.Errorf("save model: %w", err)
	}
	sum := sha256.Sum256(b)
	m.Digest = hex.EncodeToString(sum[:])
	return nil
}

// writeAtomic puts b under path by way of a temporary file beside it; when it returns without error the bytes and the
// name are on disk.
func writeAtomic(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(b); err != nil {
		return err
	}
	if err = f.Chmod(0o644); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil && !errors.Is(cerr, fs.ErrClosed) {
		err = cerr
	}
	return err
}
