package mesh

import (
	"net"

	"github.com/ringagent/ringagent/mesh/gossip"
	"github.com/ringagent/ringagent/mesh/identity"
	"github.com/ringagent/ringagent/mesh/rpc"
	"github.com/ringagent/ringagent/mesh/wire"
)

// The words of the parts, so that users import one package.
type (
	// Error is a failure as it crosses the wire.
	Error = wire.Error
	// Code is an Error's kind.
	Code = wire.Code
	// Entry is what the roster says about a node.
	Entry = wire.Entry
	// Roster is this node's copy of the roster.
	Roster = wire.Roster
	// Peer is who is at the other end of a connection or call.
	Peer = wire.Peer
	// Limits bound what strangers can make this node hold.
	Limits = wire.Limits
	// Network is where connections come from.
	Network = wire.Network

	// Handler answers a call.
	Handler = rpc.Handler
	// StreamHandler opens a stream.
	StreamHandler = rpc.StreamHandler
	// Request is one call.
	Request = rpc.Request
	// ClassSet says which classes may call a method.
	ClassSet = rpc.ClassSet
	// Hooks let the ring's generation travel with every call.
	Hooks = rpc.Hooks
	// Method is one row of the class table.
	Method = rpc.Method

	// Member is one node as gossip sees it.
	Member = gossip.Member
	// Meta is what gossip carries about a node.
	Meta = gossip.Meta
	// Status is a member's status.
	Status = gossip.Status
	// Profile chooses gossip's timing.
	Profile = gossip.Profile

	// Token is a join token.
	Token = identity.Token
	// Secret is text that is printed nowhere.
	Secret = identity.Secret
)

// The protocols that users dial and serve themselves.
const (
	RaftProtocol = wire.Raft
	BlobProtocol = wire.Blob
)

// Who may call a method.
const (
	CoreOnly  = rpc.CoreOnly
	EdgeOnly  = rpc.EdgeOnly
	Everybody = rpc.Everybody
)

// The profiles.
const (
	LAN = gossip.LAN
	WAN = gossip.WAN
)

// The statuses.
const (
	Alive   = gossip.Alive
	Suspect = gossip.Suspect
	Left    = gossip.Left
	Failed  = gossip.Failed
)

// The ways to reach a node.
const (
	ReachUnknown = gossip.ReachUnknown
	ReachDirect  = gossip.ReachDirect
	ReachSession = gossip.ReachSession
	ReachRelay   = gossip.ReachRelay
)

// The codes; see package wire for the exit code of each.
const (
	CodeNoQuorum     = wire.CodeNoQuorum
	CodeNotLeader    = wire.CodeNotLeader
	CodeConflict     = wire.CodeConflict
	CodeStaleEpoch   = wire.CodeStaleEpoch
	CodeNotFound     = wire.CodeNotFound
	CodeUnauthorised = wire.CodeUnauthorised
	CodeRefused      = wire.CodeRefused
	CodeInvalid      = wire.CodeInvalid
	CodeUnavailable  = wire.CodeUnavailable
	CodeTimeout      = wire.CodeTimeout
	CodeBusy         = wire.CodeBusy
	CodeInternal     = wire.CodeInternal
	CodeTokenUsed    = wire.CodeTokenUsed
	CodeTokenWrong   = wire.CodeTokenWrong
	CodeTokenExpired = wire.CodeTokenExpired
	CodeTokenRevoked = wire.CodeTokenRevoked
	CodeTokenClass   = wire.CodeTokenClass
	CodeForeignRing  = wire.CodeForeignRing
	CodeNameTaken    = wire.CodeNameTaken
	CodeRevoked      = wire.CodeRevoked
	CodeUnknownNode  = wire.CodeUnknownNode
	CodeExpired      = wire.CodeExpired
	CodeDuplicate    = wire.CodeDuplicate
)

// Errorf makes an Error with a formatted message.
func Errorf(code Code, format string, args ...any) *Error { return wire.Errorf(code, format, args...) }

// CodeOf finds the code in err's chain; "" means that there is none.
func CodeOf(err error) Code { return wire.CodeOf(err) }

// IsCode says whether err carries one of the codes.
func IsCode(err error, codes ...Code) bool { return wire.IsCode(err, codes...) }

// BodyLimit sets the largest request body of a method in bytes, up to 64 MiB; the default is 4 MiB.
func BodyLimit(n int64) rpc.Option { return rpc.BodyLimit(n) }

// AtOnce sets how many calls of a method are answered at once for one peer; more are refused as busy.
func AtOnce(n int) rpc.Option { return rpc.AtOnce(n) }

// Former lets nodes of a former generation of the ring call a method.
func Former() rpc.Option { return rpc.Former() }

// ParseToken reads a token's text.
func ParseToken(text string) (Token, error) { return identity.ParseToken(text) }

// PeerOf finds the peer of a connection that Dial or Listener gave.
func PeerOf(c net.Conn) (Peer, bool) { return wire.PeerOf(c) }
