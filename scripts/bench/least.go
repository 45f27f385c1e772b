package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	leastEvent = 512
	leastFile  = 16 << 20 // written over and over
)

// least is what any program has to do that has an event on the publisher's disk and on a quorum of three before it tells the
// publisher: one write to each of four files that are there already, each with its sync, and the bytes over loopback to two
// followers who say that they have them. All publishers of a round go together, nothing is checked, encrypted, hashed, kept,
// applied or copied, there is no election, and all of it is one process. What an agent has beside its floors should be read
// against this.
type least struct {
	outbox, own *leastLog
	followers   []net.Conn
	said        chan int // a follower has one round more; -1: it is gone
	has         [2]int   // how many rounds each has
	rounds      int
	close       []func() error
}

// leastLog is a file whose writes return once they are on the disk.
type leastLog struct {
	f  *os.File
	at int64
}

func (l *leastLog) put(b []byte) error {
	if l.at+int64(len(b)) > leastFile {
		l.at = 0
	}
	_, err := l.f.WriteAt(b, l.at)
	l.at += int64(len(b))
	return err
}

func openLeast(dir string, publishers int) (l *least, err error) {
	l = &least{said: make(chan int, 64)}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.stop())
		}
	}()
	var logs [4]*leastLog
	for i := range logs {
		path := filepath.Join(dir, fmt.Sprint("least", i))
		if err := os.WriteFile(path, make([]byte, leastFile), 0o600); err != nil {
			return l, err
		}
		f, err := os.OpenFile(path, os.O_RDWR|syscall.O_DSYNC, 0)
		if err != nil {
			return l, err
		}
		l.close = append(l.close, f.Close)
		if err := f.Sync(); err != nil {
			return l, err
		}
		logs[i] = &leastLog{f: f}
	}
	l.outbox, l.own = logs[0], logs[1]
	for i, log := range logs[2:] {
		near, far, err := pair()
		if err != nil {
			return l, err
		}
		l.close = append(l.close, near.Close, far.Close)
		l.followers = append(l.followers, near)
		go follow(far, log, publishers)
		go func() {
			for {
				if _, err := io.ReadFull(near, make([]byte, 1)); err != nil {
					l.said <- -1
					return
				}
				l.said <- i
			}
		}()
	}
	return l, nil
}

// follow writes what comes and says so, until the connection ends.
func follow(c net.Conn, log *leastLog, most int) {
	defer c.Close()
	buf := make([]byte, 4+most*leastEvent)
	for {
		if _, err := io.ReadFull(c, buf[:4]); err != nil {
			return
		}
		b := buf[4 : 4+binary.LittleEndian.Uint32(buf)]
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		if log.put(b) != nil {
			return
		}
		if _, err := c.Write([]byte{1}); err != nil {
			return
		}
	}
}

func (l *least) stop() error {
	var errs []error
	for _, f := range l.close {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// commit returns once b is in the outbox, in the own log and in that of a follower.
func (l *least) commit(b []byte) error {
	stored, own := make(chan error, 1), make(chan error, 1)
	frame := append(binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...)
	for _, c := range l.followers {
		if _, err := c.Write(frame); err != nil {
			return err
		}
	}
	go func() { stored <- l.outbox.put(b) }()
	go func() { own <- l.own.put(b) }()
	for l.rounds++; max(l.has[0], l.has[1]) < l.rounds; {
		i := <-l.said
		if i < 0 {
			return errors.New("a follower is gone")
		}
		l.has[i]++
	}
	return errors.Join(<-stored, <-own)
}

// run has so many publishers wait for each event.
func (l *least) run(publishers int, d time.Duration) (outcome, error) {
	events := make(chan chan error, publishers)
	end := time.Now().Add(d)
	var group sync.WaitGroup
	var mu sync.Mutex
	var all []time.Duration
	begin := time.Now()
	for range publishers {
		group.Go(func() {
			var took []time.Duration
			done := make(chan error, 1)
			for {
				began := time.Now()
				events <- done
				if err := <-done; err != nil {
					break
				}
				took = append(took, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	waiting := make([]chan error, publishers)
	for {
		for i := range waiting {
			waiting[i] = <-events
		}
		err := l.commit(make([]byte, publishers*leastEvent))
		over := err
		if over == nil && time.Now().After(end) {
			over = io.EOF
		}
		for _, done := range waiting {
			done <- over
		}
		if over != nil {
			group.Wait()
			return outcomeOf(all, begin), err
		}
	}
}
