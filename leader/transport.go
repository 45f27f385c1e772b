package leader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/ringagent/ringagent/internal/id"
)

// Streams carries Raft's connections; the mesh provides it (ALPN ring-raft/1).
type Streams interface {
	// Dial opens a connection to the node; whoever answers is authenticated as that node.
	Dial(ctx context.Context, n id.Node) (net.Conn, error)
	// Accept waits for a connection and says which authenticated node opened it. It returns an error after the streams
	// were closed, and only then.
	Accept() (net.Conn, id.Node, error)
}

// rpcsInFlight is one: the library's pipeline is never used. Each call carries up to maxAppend entries and a follower
// handles one call at a time anyway, so a second one in flight hides no fsync; but the pipeline has wedged followers
// (hashicorp/raft#612) and raised commit latency under load (hashicorp/raft#541).
const rpcsInFlight = 1

// poolSize is how many connections to a peer the library keeps.
const poolSize = 3

// Transport is the library's own network transport, embedded so that everything it can do stays visible (a wrapper of the
// interface would silently lose pre-vote), over streams of authenticated nodes. Server ids and addresses are node ids.
// Each RPC must claim to come from the node that its connection was authenticated as. For that every peer gets a
// receiving transport of its own, whose calls are checked and handed on.
type Transport struct {
	*raft.NetworkTransport
	self     id.Node
	dialer   *dialer
	calls    chan raft.RPC
	config   raft.NetworkTransportConfig
	ballot   ballot
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	beat     time.Duration // the heartbeat timeout
	heard    contacts
	barred   func(id.Node) bool // shut out of the ring
	unsigned bool               // for tests: the library tells what is committed, and nobody else
	over     atomic.Bool        // the seat is about to begin anew: no call is taken any more
	told     told
	signs    *signs

	answers answers
	holds   context.Context // of calls that are kept back, see await
	letGo   context.CancelFunc

	mu        sync.Mutex
	receivers map[id.Node]*receiver
}

// receiver decodes the calls of one peer.
type receiver struct {
	peer  id.Node
	conns chan net.Conn
	trans *raft.NetworkTransport
}

func newTransport(self id.Node, s *switchboard, heartbeat time.Duration, barred func(id.Node) bool, log hclog.Logger) *Transport {
	ctx, cancel := context.WithCancel(context.Background())
	d := &dialer{ctx: ctx, self: self, board: s}
	config := raft.NetworkTransportConfig{
		Logger: log, Stream: d, MaxPool: poolSize, MaxRPCsInFlight: rpcsInFlight, Timeout: 5 * heartbeat, MsgpackUseNewTimeFormat: true,
	}
	t := &Transport{
		NetworkTransport: raft.NewNetworkTransportWithConfig(&config),
		self:             self, dialer: d, calls: make(chan raft.RPC), config: config, ctx: ctx, cancel: cancel,
		beat: heartbeat, barred: barred, receivers: make(map[id.Node]*receiver),
	}
	t.holds, t.letGo = context.WithCancel(ctx)
	t.signs = newSigns(t.committed, func(n raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest) {
		_ = t.append(n, target, args, &raft.AppendEntriesResponse{}) // the library will say so once more
	})
	s.attach(t)
	return t
}

// AppendEntries takes note of who answers, and leaves out heartbeats to a voter that has just answered another call: the
// library sends them from a loop of its own, whatever else is on its way.
func (t *Transport) AppendEntries(n raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	heartbeat := args.PrevLogEntry == 0 && args.PrevLogTerm == 0 && len(args.Entries) == 0 && args.LeaderCommitIndex == 0
	if heartbeat && t.heard.fresh(id.Node(n), args.Term, t.beat) {
		*resp = raft.AppendEntriesResponse{RPCHeader: resp.RPCHeader, Term: args.Term, Success: true}
		return nil
	}
	if !heartbeat {
		t.signs.call(n, args)
	}
	err := t.append(n, target, args, resp)
	if err != nil && !heartbeat && t.await(id.Node(n), args.Term) {
		*resp = raft.AppendEntriesResponse{RPCHeader: resp.RPCHeader}
		again := *args
		again.LeaderCommitIndex = 0 // it is minutes old, perhaps, and would be taken for the ring's state of now
		args = &again
		err = t.append(n, target, args, resp)
	}
	if err == nil && resp.Success && !t.unsigned {
		t.signs.stored(n, target, args)
	}
	return err
}

// InstallSnapshot takes note of each part that is handed over: a node that is being given the state answers nothing else
// meanwhile, and is not gone.
func (t *Transport) InstallSnapshot(n raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := t.NetworkTransport.InstallSnapshot(n, target, args, resp, noted{data, func() { t.heard.sign(id.Node(n)) }})
	if err == nil && resp.Success {
		t.heard.sign(id.Node(n))
	}
	return err
}

// noted calls read whenever a part has been read.
type noted struct {
	io.Reader
	read func()
}

func (r noted) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if n > 0 {
		r.read()
	}
	return n, err
}

// committed is what signs go by.
func (t *Transport) committed() (term, commit uint64, leads bool) {
	r := t.ballot.raft.Load()
	if r == nil {
		return 0, 0, false
	}
	commit = r.CommitIndex()
	return r.CurrentTerm(), commit, r.State() == raft.Leader
}

func (t *Transport) append(n raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	sent := time.Now()
	err := t.NetworkTransport.AppendEntries(n, target, args, resp)
	if err != nil {
		return err
	}
	t.answers.note(id.Node(n), sent)
	if resp.Term == args.Term {
		t.heard.answered(id.Node(n), args.Term, sent)
	}
	return nil
}

// SetHeartbeatHandler does nothing, so that heartbeats take the same way as every other call: handled beside the main
// loop, one with a newer term changes the term under a running write and breaks log matching (hashicorp/raft#695).
func (t *Transport) SetHeartbeatHandler(func(raft.RPC)) {}

// Consumer is where the checked calls of all peers come out.
func (t *Transport) Consumer() <-chan raft.RPC { return t.calls }

// Close ends all connections and waits for the receivers.
func (t *Transport) Close() error {
	t.dialer.board.detach(t)
	t.cancel()
	err := t.NetworkTransport.Close()
	t.NetworkTransport.CloseStreams()
	t.signs.close()
	t.mu.Lock()
	for _, r := range t.receivers {
		err = errors.Join(err, r.trans.Close())
		r.trans.CloseStreams()
	}
	t.mu.Unlock()
	t.wg.Wait()
	return err
}

func (t *Transport) accept(conn net.Conn, peer id.Node) {
	t.mu.Lock()
	r, ok := t.receivers[peer]
	if !ok && t.ctx.Err() == nil {
		r = &receiver{peer: peer, conns: make(chan net.Conn)}
		config := t.config
		config.Stream = inbox{r: r, ctx: t.ctx}
		r.trans = raft.NewNetworkTransportWithConfig(&config)
		t.receivers[peer] = r
		t.wg.Go(func() { t.pump(r) })
	}
	t.mu.Unlock()
	if r == nil {
		_ = conn.Close()
		return
	}
	select {
	case r.conns <- conn:
	case <-t.ctx.Done():
		_ = conn.Close()
	}
}

func (t *Transport) pump(r *receiver) {
	for {
		select {
		case rpc := <-r.trans.Consumer():
			if err := checkSender(rpc, r.peer); err != nil {
				rpc.Respond(nil, err)
				continue
			}
			// The mesh ends the streams of who is shut out; a call that is under way then must do nothing either.
			if t.barred(r.peer) {
				rpc.Respond(nil, fmt.Errorf("%s is shut out of the ring", r.peer))
				continue
			}
			if t.over.Load() {
				rpc.Respond(nil, raft.ErrTransportShutdown)
				continue
			}
			t.told.hear(rpc.Command, t.ballot.raft.Load())
			t.ballot.admit(rpc.Command, r.peer)
			select {
			case t.calls <- rpc:
			case <-t.ctx.Done():
				rpc.Respond(nil, raft.ErrTransportShutdown)
				return
			}
		case <-t.ctx.Done():
			return
		}
	}
}

// checkSender checks that all names in a call are the authenticated peer's.
func checkSender(rpc raft.RPC, peer id.Node) error {
	with, ok := rpc.Command.(raft.WithRPCHeader)
	if !ok {
		return fmt.Errorf("call of %s has no header", peer)
	}
	h := with.GetRPCHeader()
	names := [][]byte{h.ID, h.Addr}
	var old []byte // names of older protocol versions, which the library still believes when the header's are missing
	switch c := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		old = c.Leader
	case *raft.RequestVoteRequest:
		old = c.Candidate
	case *raft.InstallSnapshotRequest:
		old = c.Leader
	}
	if len(old) > 0 {
		names = append(names, old)
	}
	for _, n := range names {
		if string(n) != string(peer) {
			return fmt.Errorf("call of %s claims to come from %q", peer, n)
		}
	}
	return nil
}

// inbox is the listener of one receiver.
type inbox struct {
	r   *receiver
	ctx context.Context
}

func (i inbox) Accept() (net.Conn, error) {
	select {
	case c := <-i.r.conns:
		return c, nil
	case <-i.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (i inbox) Close() error   { return nil }
func (i inbox) Addr() net.Addr { return nodeAddr(i.r.peer) }

func (i inbox) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	return nil, errors.New("a receiver does not dial")
}

// dialer is the sending side's stream layer. Nothing is accepted there.
type dialer struct {
	ctx   context.Context
	self  id.Node
	board *switchboard
}

func (d *dialer) Accept() (net.Conn, error) {
	<-d.ctx.Done()
	return nil, net.ErrClosed
}

func (d *dialer) Close() error   { return nil }
func (d *dialer) Addr() net.Addr { return nodeAddr(d.self) }

func (d *dialer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(d.ctx, timeout)
	defer cancel()
	return d.board.dial(ctx, id.Node(addr))
}

type nodeAddr id.Node

func (nodeAddr) Network() string  { return "ring" }
func (a nodeAddr) String() string { return string(a) }
