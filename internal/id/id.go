package id

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Node is the random, persistent id of one enrolled machine: 16 lower-case hex digits. People's names for machines live
// in the roster; a machine that was wiped and enrols again is a new Node.
type Node string

// Boot is the random id of one start of an agent: 16 lower-case hex digits.
type Boot string

// Ring is the random id of one installation: 16 lower-case hex digits.
type Ring string

// Digest is the SHA-256 of an artifact as 64 lower-case hex digits. It is the artifact's only identity.
type Digest string

// Config says what is being trained, as "<board>_<n>p": "connect4_2p".
type Config string

// Class is what a node is allowed to be; it is bound into the node's certificate.
type Class string

// The two classes. A core node is stable and reachable and may vote; an edge node is rented and never votes.
const (
	Core Class = "core"
	Edge Class = "edge"
)

var (
	shortHex   = regexp.MustCompile(`^[0-9a-f]{16}$`)
	digestHex  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	configName = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*_([1-9])p$`)
	nodeName   = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?$`)
)

func random() string {
	var b [8]byte
	// crypto/rand.Read never fails on the platforms we build for; it aborts the process instead.
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// NewNode returns a fresh random node id.
func NewNode() Node { return Node(random()) }

// NewBoot returns a fresh random boot id.
func NewBoot() Boot { return Boot(random()) }

// NewRing returns a fresh random ring id.
func NewRing() Ring { return Ring(random()) }

// ParseNode checks the syntax of a node id.
func ParseNode(s string) (Node, error) {
	if !shortHex.MatchString(s) {
		return "", fmt.Errorf("node id %q: want 16 lower-case hex digits", s)
	}
	return Node(s), nil
}

// ParseClass accepts "core" and "edge".
func ParseClass(s string) (Class, error) {
	switch Class(s) {
	case Core, Edge:
		return Class(s), nil
	}
	return "", fmt.Errorf("class %q: want core or edge", s)
}

// ParseDigest checks that s is a whole digest: 64 lower-case hex digits.
func ParseDigest(s string) (Digest, error) {
	if !digestHex.MatchString(s) {
		return "", fmt.Errorf("sha256 %q: want 64 lower-case hex digits", s)
	}
	return Digest(s), nil
}

// DigestOf returns the digest of b.
func DigestOf(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest(hex.EncodeToString(sum[:]))
}

// Short is the first 12 digits, for people.
func (d Digest) Short() string {
	if len(d) < 12 {
		return string(d)
	}
	return string(d[:12])
}

// ParseConfig checks the syntax of a config key.
func ParseConfig(s string) (Config, error) {
	if !configName.MatchString(s) {
		return "", fmt.Errorf("config %q: want <board>_<n>p such as connect4_2p", s)
	}
	return Config(s), nil
}

// Board is the part of the key before the number of players.
func (c Config) Board() string {
	i := strings.LastIndexByte(string(c), '_')
	if i < 0 {
		return string(c)
	}
	return string(c[:i])
}

// Players is the number of players, or 0 for a malformed key.
func (c Config) Players() int {
	m := configName.FindStringSubmatch(string(c))
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[2])
	return n
}

// CheckNodeName says whether s can be a node's name: a host name's letters, 1 to 63 of them.
func CheckNodeName(s string) error { return checkName("node name", s) }

// CheckRingName says whether s can be a ring's name, by the rule for a node's.
func CheckRingName(s string) error { return checkName("ring name", s) }

func checkName(what, s string) error {
	if !nodeName.MatchString(s) {
		return fmt.Errorf("%s %q: want 1 to 63 letters, digits, dots, dashes or underscores, beginning and ending with a letter or digit", what, s)
	}
	return nil
}

// Epoch is the fencing token of a singleton's assignment: generation·2⁴⁰ + Raft index of the entry that assigned it. Zero
// means "no singleton". Epochs of one daemon only grow, also across a recovery or a restore, which raise the generation.
type Epoch uint64

// MaxIndex is the largest Raft index an Epoch can hold.
const MaxIndex = 1<<40 - 1

// ErrEpochOverflow is returned when a Raft index does not fit into an epoch.
var ErrEpochOverflow = errors.New("raft index does not fit into an epoch")

// NewEpoch joins a generation and a Raft index.
func NewEpoch(generation, index uint64) (Epoch, error) {
	if index > MaxIndex || generation >= 1<<24 {
		return 0, fmt.Errorf("epoch of generation %d, index %d: %w", generation, index, ErrEpochOverflow)
	}
	return Epoch(generation<<40 | index), nil
}

// Generation is the recovery generation in which the epoch was made.
func (e Epoch) Generation() uint64 { return uint64(e) >> 40 }

// Index is the Raft index at which the epoch was made.
func (e Epoch) Index() uint64 { return uint64(e) & MaxIndex }
