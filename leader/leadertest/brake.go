package leadertest

import (
	"sync"

	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/leader"
)

// Brake is a disk that can be made to hang, or to refuse writes.
type Brake struct {
	mu   sync.Mutex
	hang chan struct{}
	err  error
}

// Stop makes every write hang until Go.
func (b *Brake) Stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hang == nil {
		b.hang = make(chan struct{})
	}
}

// Go lets writes go on.
func (b *Brake) Go() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hang != nil {
		close(b.hang)
		b.hang = nil
	}
}

// Fail makes every write end with err; nil ends that.
func (b *Brake) Fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// Write is one write to the disk.
func (b *Brake) Write() error {
	b.mu.Lock()
	hang, err := b.hang, b.err
	b.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return err
}

// Wrap puts the brake before a store; it is a leader.Faults.WrapStore.
func (b *Brake) Wrap(s leader.Logs) leader.Logs { return braked{s, b} }

type braked struct {
	leader.Logs
	b *Brake
}

func (s braked) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s braked) StoreLogs(l []*raft.Log) error {
	if err := s.b.Write(); err != nil {
		return err
	}
	return s.Logs.StoreLogs(l)
}

func (s braked) Set(k, v []byte) error {
	if err := s.b.Write(); err != nil {
		return err
	}
	return s.Logs.Set(k, v)
}

func (s braked) SetUint64(k []byte, v uint64) error {
	if err := s.b.Write(); err != nil {
		return err
	}
	return s.Logs.SetUint64(k, v)
}
