package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent"
)

const (
	// asLongAsItTakes is for what is as long as its bytes are many: the agent gives up by itself on whom it cannot reach.
	asLongAsItTakes = 0
	// verifyLimit is above the ten minutes that an agent gives each of the others to hash its copy of the log.
	verifyLimit = 15 * time.Minute

	progressEvery = 3 * time.Second
)

// askLong is ask for long work: the default of --timeout is for short questions, only one that somebody gave counts.
func askLong(c *cli.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	switch {
	case c.IsSet("timeout"):
		return ask(c)
	case limit == asLongAsItTakes:
		return context.WithCancel(c.Context)
	}
	return context.WithTimeout(c.Context, limit)
}

// progress tells who looks at a terminal that long work goes on, until stop; more is what there is to say beside the time.
func progress(c *cli.Context, more func() string) (stop func()) {
	if c.Bool("json") || !agent.Terminal(c.App.ErrWriter) {
		return func() {}
	}
	return keepTelling(c.App.ErrWriter, progressEvery, more)
}

func keepTelling(w io.Writer, every time.Duration, more func() string) (stop func()) {
	begin, done := time.Now(), make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				fmt.Fprintf(w, "still at it, %.0f s%s\n", time.Since(begin).Seconds(), more())
			case <-done:
				return
			}
		}
	})
	return sync.OnceFunc(func() { // nothing is told any more once it has returned
		close(done)
		group.Wait()
	})
}

// noMore is for work of which only the agent knows how far it is.
func noMore() string { return "" }

// counted is a reader that knows how much went through it.
type counted struct {
	io.Reader
	n atomic.Int64
}

// Read implements io.Reader.
func (r *counted) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n.Add(int64(n))
	return n, err
}

func (r *counted) soFar() string { return ", " + size(r.n.Load()) }
