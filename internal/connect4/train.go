package connect4

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

// usageError is about the options themselves.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// Defaults of a training.
const (
	DefaultEpochs = 6
	defaultBatch  = 64
	defaultRate   = 0.002
)

// TrainOptions say what to learn.
type TrainOptions struct {
	Dataset string // NPZ file
	Parent  string // model to go on from; "" starts afresh
	Out     string // model file
	Epochs  int    // 0 is DefaultEpochs
	Seed    uint64
	// Progress gets a line "epoch=N loss=…" for each epoch and, last, one "TRAINING_SUMMARY: …".
	Progress io.Writer
}

// TrainResult is what a training came to. Losses are means over the samples in the last epoch.
type TrainResult struct {
	Digest                   string
	Samples, Games, Epochs   int
	PolicyLoss, ValueLoss    float64
	ParentDigest, DataDigest string
}

// Train fits a network to a dataset and writes the model, whole or not at all. The same inputs make the same bytes on the
// same kind of machine. A dataset or parent that is not sound is an ErrDataset, npz.ErrInvalid or ErrModel.
func Train(ctx context.Context, o TrainOptions) (TrainResult, error) {
	if o.Epochs == 0 {
		o.Epochs = DefaultEpochs
	}
	if o.Epochs < 1 || o.Epochs > 10_000 {
		return TrainResult{}, usagef("--epochs %d: want 1 to 10000", o.Epochs)
	}
	r := TrainResult{Epochs: o.Epochs}
	net := NewNetwork(o.Seed)
	if o.Parent != "" {
		parent, err := LoadModel(o.Parent)
		if err != nil {
			return r, err
		}
		net, r.ParentDigest = parent.Net.clone(), parent.Digest
	}
	d, err := loadDataset(o.Dataset)
	if err != nil {
		return r, err
	}
	if r.DataDigest, err = fileDigest(o.Dataset); err != nil {
		return r, fmt.Errorf("digest dataset: %w", err)
	}
	list, err := d.samples()
	if err != nil {
		return r, fmt.Errorf("load dataset %s: %w", o.Dataset, err)
	}
	r.Samples, r.Games = d.n, d.games
	l, err := fit(ctx, net, list, fitOptions{epochs: o.Epochs, batch: defaultBatch, rate: defaultRate, seed: o.Seed, each: func(epoch int, l losses) {
		o.print("epoch=%d loss=%.4f policy_loss=%.4f value_loss=%.4f\n", epoch, l.policy+l.value, l.policy, l.value)
	}})
	if err != nil {
		return r, err
	}
	r.PolicyLoss, r.ValueLoss = l.policy, l.value
	m := &Model{Net: net, Info: ModelInfo{
		Parent: r.ParentDigest, Dataset: r.DataDigest, Seed: o.Seed, Samples: r.Samples, Epochs: r.Epochs, Loss: l.policy + l.value,
	}}
	if err := SaveModel(o.Out, m); err != nil {
		return r, err
	}
	r.Digest = m.Digest
	o.print("TRAINING_SUMMARY: loss=%.4f samples=%d games=%d epochs=%d\n", l.policy+l.value, r.Samples, r.Games, r.Epochs)
	return r, nil
}

func (o *TrainOptions) print(format string, args ...any) {
	if o.Progress != nil {
		_, _ = fmt.Fprintf(o.Progress, format, args...) // nobody listening is no reason to stop
	}
}

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
