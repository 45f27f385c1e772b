package mesh

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/mesh/identity"
	"github.com/ringagent/ringagent/mesh/wire"
)

// EnrolOptions say how a machine gets into a ring.
type EnrolOptions struct {
	DataDir   string
	Token     Token
	Seeds     []string // host:port of core nodes, tried in order
	Name      string
	Class     id.Class // "" takes what the token gives
	Advertise []string // host:port under which others shall dial this node
	Boot      id.Boot
	Network   Network // nil means TCP
	// Keep gets what the Enroller sent along, before the identity is complete on disk. May be nil.
	Keep func(state json.RawMessage) error
}

// Enrolled is a machine's new place in a ring.
type Enrolled struct {
	Ring     id.Ring
	RingName string
	Node     id.Node
	Class    id.Class
	Name     string
	Seed     id.Node // who took it in
}

// enrolPatience bounds one attempt at one seed; the token's use has to be committed in it.
const enrolPatience = 30 * time.Second

type enrolAsk struct {
	TokenID   string   `json:"token_id"`
	Secret    string   `json:"secret"`
	Request   []byte   `json:"csr"`
	Class     id.Class `json:"class,omitempty"`
	Name      string   `json:"name"`
	Node      id.Node  `json:"node"`
	Boot      id.Boot  `json:"boot"`
	Advertise []string `json:"advertise,omitempty"`
}

type enrolAnswer struct {
	Error       *Error          `json:"error,omitempty"`
	Node        id.Node         `json:"node,omitempty"`
	Class       id.Class        `json:"class,omitempty"`
	Name        string          `json:"name,omitempty"`
	Certificate []byte          `json:"certificate,omitempty"`
	State       json.RawMessage `json:"state,omitempty"`
}

// Enrol buys a place in a ring with a token and writes it to DataDir. The server is checked against the token before
// anything is sent. The node's key is kept when no answer came, so that the same key can ask again: the token is bound to
// the first key that used it. A refusal (codes token_*, foreign_ring, name_taken) leaves nothing behind.
func Enrol(ctx context.Context, o EnrolOptions) (Enrolled, error) {
	if err := id.CheckNodeName(o.Name); err != nil {
		return Enrolled{}, Errorf(CodeInvalid, "%v", err)
	}
	if len(o.Seeds) == 0 {
		return Enrolled{}, Errorf(CodeInvalid, "no seed to enrol with")
	}
	if o.Network == nil {
		o.Network = wire.TCP{}
	}
	attempt, err := identity.Begin(o.DataDir)
	if errors.Is(err, identity.ErrUsed) {
		return Enrolled{}, errUsed(o.DataDir)
	}
	if err != nil {
		return Enrolled{}, fmt.Errorf("enrol: %w", err)
	}
	keep := false
	var last error
	for _, seed := range o.Seeds {
		done, how, err := enrolAt(ctx, o, attempt, seed)
		if err == nil {
			return done, nil
		}
		last = err
		if how == refused {
			break
		}
		keep = keep || how == unknown
		if ctx.Err() != nil {
			break
		}
	}
	if !keep {
		attempt.Undo()
	}
	return Enrolled{}, fmt.Errorf("enrol: %w", last)
}

// outcome is what one attempt at one seed can have done to the token.
type outcome int

const (
	unsent  outcome = iota // nothing
	unknown                // perhaps it was spent by this key
	refused                // nothing, and no other seed will say otherwise
	granted
)

func enrolAt(ctx context.Context, o EnrolOptions, at *identity.Attempt, seed string) (Enrolled, outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, enrolPatience)
	defer cancel()
	c, intro, err := wire.DialEnrol(ctx, o.Network, seed, o.Token.CA)
	if err != nil {
		return Enrolled{}, unsent, err //nolint:wrapcheck // a *wire.Error
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	defer c.Close() //nolint:errcheck // all has been said
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, at.Key)
	if err != nil {
		return Enrolled{}, unsent, fmt.Errorf("make certificate request: %w", err)
	}
	err = wire.WriteFrame(c, enrolAsk{
		TokenID: o.Token.ID, Secret: o.Token.Secret.Reveal(), Request: csr, Class: o.Class, Name: o.Name, Node: at.Node,
		Boot: o.Boot, Advertise: o.Advertise,
	})
	if err != nil {
		return Enrolled{}, unknown, Errorf(CodeUnavailable, "ask %s: %v", seed, err)
	}
	var answer enrolAnswer
	if err := wire.ReadFrame(c, wire.MaxFrame, &answer); err != nil {
		return Enrolled{}, unknown, Errorf(CodeUnavailable, "no answer from %s: %v", seed, err).
			WithHint("ask again with the same data directory: the token is bound to its key")
	}
	if answer.Error != nil {
		if IsCode(answer.Error, CodeUnavailable, CodeTimeout, CodeNoQuorum, CodeNotLeader, CodeInternal) {
			return Enrolled{}, unknown, answer.Error
		}
		return Enrolled{}, refused, answer.Error
	}
	done, err := settle(o, at, intro, seed, answer)
	if err != nil {
		return Enrolled{}, unknown, err
	}
	return done, granted, nil
}

// settle writes the identity that was granted, the authority last: where it stands, Granted finds all the rest.
func settle(o EnrolOptions, at *identity.Attempt, intro wire.Introduction, seed string, answer enrolAnswer) (Enrolled, error) {
	cert, err := x509.ParseCertificate(answer.Certificate)
	if err != nil {
		return Enrolled{}, fmt.Errorf("parse granted certificate: %w", err)
	}
	if o.Keep != nil {
		if err := o.Keep(answer.State); err != nil {
			return Enrolled{}, err
		}
	}
	book, _ := wire.OpenBook(filepath.Join(o.DataDir, FilePeers))
	book.Add(intro.Server.Node, seed)
	if err := book.Save(); err != nil {
		return Enrolled{}, err //nolint:wrapcheck // the book has said what it did
	}
	if err := at.Settle(intro.Authority, answer.Node, cert); err != nil {
		return Enrolled{}, err //nolint:wrapcheck // identity has said what it did
	}
	return Enrolled{
		Ring: intro.Authority.Ring(), RingName: intro.Authority.Name(), Node: answer.Node, Class: answer.Class,
		Name: answer.Name, Seed: intro.Server.Node,
	}, nil
}

// Granted reads from the disk alone the place in a ring that Enrol has written there, whoever died after it. ok is false
// where there is none, and where InitRing has made the identity: a founder's signing key lies beside it from the first.
func Granted(dataDir string) (e Enrolled, authority id.Digest, ok bool, err error) {
	if Founding(dataDir) || !identity.Settled(dataDir) {
		return Enrolled{}, "", false, nil
	}
	store, err := identity.OpenStore(dataDir)
	if err != nil {
		return Enrolled{}, "", false, fmt.Errorf("read granted identity: %w", err)
	}
	c, err := identity.LoadCredentials(store)
	if err != nil {
		return Enrolled{}, "", false, fmt.Errorf("read granted identity: %w", err)
	}
	s, a := c.Subject(), c.Authority()
	return Enrolled{Ring: a.Ring(), RingName: a.Name(), Node: s.Node, Class: s.Class, Name: s.Name}, a.Hash(), true, nil
}

// EnrolRequest is what a newcomer asks for, after its key has been proved. The secret itself goes no further than this.
type EnrolRequest struct {
	TokenID    string
	SecretHash id.Digest // compare with Token.SecretHash in constant time or by map lookup of the hash
	Key        id.Digest
	Class      id.Class // "" takes what the token gives
	Name       string
	Node       id.Node // the id that the machine proposes; the same key always proposes the same
	Boot       id.Boot
	Addresses  []string // host:port, as it says
	Remote     string   // host:port, as seen here
}

// EnrolGrant is the place that a newcomer gets.
type EnrolGrant struct {
	Node  id.Node
	Class id.Class
	Name  string
	// State goes to the newcomer as it is, up to 512 KiB: a first copy of the roster, so that it is not blind when it
	// starts.
	State json.RawMessage
}

// Enroller decides who gets in. It has to commit, before it returns, that the token was used by this key and that node and
// key are in the roster; asked again by the same key for the same token it must grant the same, also when the token has
// been used up or has expired meanwhile, and any other key must be refused. Errors: CodeTokenUsed, CodeTokenWrong,
// CodeTokenExpired, CodeTokenRevoked, CodeTokenClass, CodeNameTaken, or any other that says the question may be asked again.
type Enroller interface {
	Enrol(ctx context.Context, r EnrolRequest) (EnrolGrant, error)
}

func (m *Mesh) serveEnrol(ctx context.Context, c net.Conn) {
	defer c.Close() //nolint:errcheck // all has been said
	var ask enrolAsk
	// The deadline of the handshake still runs: who is slow to ask is thrown out.
	if err := wire.ReadFrame(c, 16<<10, &ask); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, enrolPatience)
	defer cancel()
	_ = c.SetDeadline(time.Now().Add(enrolPatience + time.Second))
	answer, err := m.enrol(ctx, ask, c.RemoteAddr().String())
	if err != nil {
		answer = enrolAnswer{Error: asError(err)}
		if m.strangers.Allow() {
			m.cfg.Log.Info().Str("error", fmt.Sprintf("%.400s", err.Error())).Str("name", fmt.Sprintf("%.80s", ask.Name)).
				Stringer("remote", c.RemoteAddr()).Msg("enrolment refused")
		}
	} else {
		m.cfg.Log.Info().Str("peer", string(answer.Node)).Str("name", answer.Name).Msg("node enrolled")
	}
	_ = wire.WriteFrame(c, answer)
}

func (m *Mesh) enrol(ctx context.Context, ask enrolAsk, remote string) (enrolAnswer, error) {
	a := m.credentials.Authority()
	// Asked before the token is spent: who cannot sign must not spend it.
	if m.cfg.Enroller == nil || !a.CanSign() {
		return enrolAnswer{}, Errorf(CodeUnavailable, "this node cannot take anybody into the ring; ask a core node")
	}
	public, key, err := ask.check()
	if err != nil {
		return enrolAnswer{}, err
	}
	grant, err := m.cfg.Enroller.Enrol(ctx, EnrolRequest{
		TokenID: ask.TokenID, SecretHash: identity.HashSecret(ask.TokenID, identity.NewSecret(ask.Secret)), Key: key,
		Class: ask.Class, Name: ask.Name, Node: ask.Node, Boot: ask.Boot, Addresses: ask.Advertise, Remote: remote,
	})
	if err != nil {
		return enrolAnswer{}, m.convert(err)
	}
	cert, err := a.Sign(identity.SignRequest{
		Node: grant.Node, Class: grant.Class, Name: grant.Name, Hosts: m.freeHosts(grant.Node, grant.Name, hostsOf(ask.Advertise)),
		Public: public, Life: m.cfg.Life, Now: m.cfg.Now(),
	})
	if err != nil {
		return enrolAnswer{}, fmt.Errorf("enrol %s: %w", grant.Node, err)
	}
	return enrolAnswer{
		Node: grant.Node, Class: grant.Class, Name: grant.Name, Certificate: cert.Raw, State: grant.State,
	}, nil
}

// convert gives an Enroller's error the code that it stands for.
func (m *Mesh) convert(err error) error {
	if CodeOf(err) == "" && m.cfg.Hooks.Convert != nil {
		if e := m.cfg.Hooks.Convert(err); e != nil {
			return e
		}
	}
	return err
}

// check refuses what no honest newcomer sends, and proves that it has the key that it shows.
func (a *enrolAsk) check() (*ecdsa.PublicKey, id.Digest, error) {
	csr, err := x509.ParseCertificateRequest(a.Request)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, "", Errorf(CodeInvalid, "certificate request: %v", err)
	}
	key, err := identity.KeyHash(csr.PublicKey)
	if err != nil {
		return nil, "", Errorf(CodeInvalid, "certificate request: %v", err)
	}
	if err := id.CheckNodeName(a.Name); err != nil {
		return nil, "", Errorf(CodeInvalid, "%v", err)
	}
	if _, err := id.ParseNode(string(a.Node)); err != nil {
		return nil, "", Errorf(CodeInvalid, "%v", err)
	}
	if a.Class != "" {
		if _, err := id.ParseClass(string(a.Class)); err != nil {
			return nil, "", Errorf(CodeInvalid, "%v", err)
		}
	}
	if len(a.Advertise) > maxHosts {
		return nil, "", Errorf(CodeInvalid, "more than %d addresses", maxHosts)
	}
	public, _ := csr.PublicKey.(*ecdsa.PublicKey) // KeyHash takes no other
	return public, key, nil
}
