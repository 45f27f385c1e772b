package main

import (
	"crypto/sha256"
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

	"github.com/ringagent/ringagent/eventlog/event"
)

const (
	leastPublishers = 64

	leastEvent = 512
	leastRoom  = 1 << 10  // for an event with what is around it
	leastFile  = 16 << 20 // written over and over
)

// least is what any program has to do that has an event on the publisher's disk and on a quorum of three before it tells the
// publisher: one write to each of four files that are there already, each with its sync, and the bytes over loopback to two
// followers who say that they have them. All publishers of a round go together, nothing is checked, encrypted, hashed, kept,
// applied or copied, there is no election, and all of it is one process. What an agent has beside its floors should be read
// against this. With keepers it does what is asked for an event besides, see keeper.
type least struct {
	outbox, own *leastLog
	keepers     []*keeper // the coordinator's and the followers'; none: events are zeros
	event       event.Draft
	stated      keeper     // of the publishers' node: the running hash of what they stated
	kept        chan error // holds what became of the coordinator's last round
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

func openLeast(dir string, asked bool) (l *least, err error) {
	l = &least{said: make(chan int, 64), event: event.Draft{Type: "OPERATOR_NOTE", Node: "n1", Payload: payload()}, stated: keeper{sum: sha256.New()}, kept: make(chan error, 1)}
	l.kept <- nil
	defer func() {
		if err != nil {
			err = errors.Join(err, l.stop())
		}
	}()
	var logs [4]*leastLog
	for i := range logs {
		if logs[i], err = l.file(dir, fmt.Sprint("least", i), syscall.O_DSYNC); err != nil {
			return l, err
		}
	}
	l.outbox, l.own = logs[0], logs[1]
	for i := range 3 {
		if asked {
			copied, err := l.file(dir, fmt.Sprint("copy", i), 0)
			if err != nil {
				return l, err
			}
			l.keepers = append(l.keepers, &keeper{sum: sha256.New(), file: copied})
		}
	}
	for i, log := range logs[2:] {
		near, far, err := l.connect(asked)
		if err != nil {
			return l, err
		}
		l.followers = append(l.followers, near)
		var k *keeper
		if asked {
			k = l.keepers[1+i]
		}
		go follow(far, log, k)
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

// file makes a file that is there already when it is written to. It is closed by stop.
func (l *least) file(dir, name string, flag int) (*leastLog, error) {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, make([]byte, leastFile), 0o600); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|flag, 0)
	if err != nil {
		return nil, err
	}
	l.close = append(l.close, f.Close)
	return &leastLog{f: f}, f.Sync()
}

// connect makes a connection, if asked under TLS. It is closed by stop.
func (l *least) connect(asked bool) (near, far net.Conn, err error) {
	if !asked {
		if near, far, err = pair(); err == nil {
			l.close = append(l.close, near.Close, far.Close)
		}
		return near, far, err
	}
	client, server, err := securePair()
	if err != nil {
		return nil, nil, err
	}
	l.close = append(l.close, client.NetConn().Close, server.NetConn().Close)
	return client, server, nil
}

// follow writes what comes and says so, until the connection ends.
func follow(c net.Conn, log *leastLog, k *keeper) {
	defer c.Close()
	buf := make([]byte, 4+leastPublishers*leastRoom)
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
		if k != nil && k.keep(b) != nil {
			return
		}
	}
}

func (l *least) stop() error {
	var errs []error
	for _, f := range l.close {
		if err := f(); !errors.Is(err, net.ErrClosed) { // a follower may have ended its connection itself
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// commit returns once b is in the outbox, in the own log and in that of a follower.
func (l *least) commit(b []byte) error {
	stored, own := make(chan error, 1), make(chan error, 1)
	frame := append(binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...)
	go func() { stored <- l.outbox.put(b) }()
	go func() { own <- l.own.put(b) }()
	for _, c := range l.followers {
		if _, err := c.Write(frame); err != nil {
			return errors.Join(err, <-stored, <-own)
		}
	}
	for l.rounds++; max(l.has[0], l.has[1]) < l.rounds; {
		i := <-l.said
		if i < 0 {
			return errors.New("a follower is gone")
		}
		l.has[i]++
	}
	return errors.Join(<-stored, <-own)
}

// handed is a publisher that waits for its event.
type handed struct {
	draft []byte
	done  chan error
}

// run has leastPublishers wait for each event.
func (l *least) run(d time.Duration) (outcome, error) {
	events := make(chan handed, leastPublishers)
	end := time.Now().Add(d)
	var group sync.WaitGroup
	var mu sync.Mutex
	var all []time.Duration
	begin := time.Now()
	for range leastPublishers {
		group.Go(func() {
			var took []time.Duration
			h := handed{done: make(chan error, 1)}
			for {
				began := time.Now()
				h.draft = l.draft()
				events <- h
				if err := <-h.done; err != nil {
					break
				}
				took = append(took, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	waiting := make([]handed, leastPublishers)
	for {
		for i := range waiting {
			waiting[i] = <-events
		}
		err := l.round(waiting)
		over := err
		if over == nil && time.Now().After(end) {
			over = io.EOF
		}
		for _, h := range waiting {
			h.done <- over
		}
		if over != nil {
			group.Wait()
			return outcomeOf(all, begin), err
		}
	}
}
