package state

import (
	"crypto/subtle"
	"errors"
	"slices"
	"time"

	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

// enrol admits a key. The same key gets the same answer again, since the first one may have been lost.
func (t *txn) enrol(b Enrol) (any, error) {
	m := b.Member
	tok, granted, err := t.mayEnrol(b)
	if err != nil {
		return nil, err
	}
	if granted != nil {
		return *granted, nil
	}
	m.Class, m.Status, m.Since, m.Enrolled, m.Revoked, m.Boot = b.Class, ring.Alive, t.at(), t.at(), false, ""
	if b.TokenID != "" {
		tok.Used = append(slices.Clone(tok.Used), ring.TokenUse{KeyHash: m.KeyHash, Node: m.ID, At: t.at()})
		t.s.tokens.put(tok.ID, tok)
	}
	t.putMember(memberRow{Member: m})
	t.s.nameIndex.put(m.Name, m.ID)
	return m, nil
}

// mayEnrol refuses what enrol does not admit; granted is the member that this very key is already. It only reads.
func (t *txn) mayEnrol(b Enrol) (tok ring.Token, granted *ring.Member, err error) {
	m := b.Member
	if _, err := id.ParseNode(string(m.ID)); err != nil {
		return tok, nil, refuse(CodeInvalid, "%v", err)
	}
	if err := id.CheckNodeName(m.Name); err != nil {
		return tok, nil, refuse(CodeInvalid, "%v", err)
	}
	if m.KeyHash == "" {
		return tok, nil, refuse(CodeInvalid, "enrolment without a key")
	}
	if t.s.IsRevoked(m.ID) || t.s.IsKeyRevoked(m.KeyHash) {
		return tok, nil, refuse(CodeUnauth, "the node or its key is revoked")
	}
	if tok, granted, err = t.present(b); err != nil || granted != nil {
		return tok, granted, err
	}
	if have, ok := t.s.members.get(string(m.ID)); ok {
		if have.KeyHash == m.KeyHash {
			return tok, &have.Member, nil
		}
		return tok, nil, refuse(CodeRefused, "node id %s belongs to another key: two machines with one identity", m.ID)
	}
	return tok, nil, t.nameFree(m.Name, m.ID)
}

// TryEnrol says how this state would answer an enrolment at a moment, and changes nothing: what strangers ask is looked at
// before it costs an entry. granted is the member that this very key is already; Code is "" where it would be admitted.
func (s *State) TryEnrol(b Enrol, at time.Time) (granted *ring.Member, res Result) {
	t := &txn{s: *s, cmd: Command{At: at}}
	_, granted, err := t.mayEnrol(b)
	var no *refusal
	if errors.As(err, &no) {
		res.Code, res.Message = no.code, no.message
	}
	return granted, res
}

// present checks a token. granted is the member that this very key became by it before.
func (t *txn) present(b Enrol) (tok ring.Token, granted *ring.Member, err error) {
	if _, err := id.ParseClass(string(b.Class)); err != nil {
		return tok, nil, refuse(CodeInvalid, "%v", err)
	}
	if b.TokenID == "" {
		if t.s.members.len() == 0 {
			return tok, nil, nil
		}
		for _, r := range t.s.members.all() {
			if r.KeyHash == b.Member.KeyHash && r.ID == b.Member.ID {
				return tok, &r.Member, nil
			}
		}
		return tok, nil, refuse(CodeUnauth, "a join token is needed")
	}
	tok, ok := t.s.tokens.get(b.TokenID)
	switch {
	case !ok:
		return tok, nil, refuse(CodeUnauth, "join token %s is unknown", b.TokenID)
	case subtle.ConstantTimeCompare([]byte(tok.SecretHash), []byte(b.SecretHash)) != 1:
		return tok, nil, refuse(CodeUnauth, "join token %s: wrong secret", b.TokenID)
	case tok.Revoked:
		return tok, nil, refuse(CodeUnauth, "join token %s is revoked", b.TokenID)
	case tok.Class != b.Class:
		return tok, nil, refuse(CodeRefused, "join token %s is for class %s, not %s", b.TokenID, tok.Class, b.Class)
	}
	for _, u := range tok.Used {
		if u.KeyHash != b.Member.KeyHash {
			continue
		}
		if m, ok := t.s.members.get(string(u.Node)); ok {
			return tok, &m.Member, nil
		}
		return tok, nil, refuse(CodeUnauth, "join token %s was used by this key for a node that is forgotten", b.TokenID)
	}
	switch {
	case !t.at().Before(tok.Expires):
		return tok, nil, refuse(CodeUnauth, "join token %s has expired", b.TokenID)
	case len(tok.Used) >= tok.Uses:
		return tok, nil, refuse(CodeUnauth, "join token %s is used up", b.TokenID)
	}
	return tok, nil, nil
}

// nameFree refuses a name that a node bears which is not known to be gone.
func (t *txn) nameFree(name string, forNode id.Node) error {
	n, ok := t.s.nameIndex.get(name)
	if !ok || n == forNode {
		return nil
	}
	r, ok := t.s.members.get(string(n))
	if ok && !r.Revoked && r.Status != ring.Left && r.Status != ring.Failed {
		return refuse(CodeRefused, "name taken: %s is node %s, which is %s", name, n, r.Status)
	}
	return nil
}

func (t *txn) putMember(r memberRow) { t.s.members.put(string(r.ID), r) }

// member is a node that may take part.
func (t *txn) member(n id.Node) (memberRow, error) {
	r, ok := t.s.members.get(string(n))
	if !ok {
		return r, refuse(CodeNotFound, "node %s is not in the roster", n)
	}
	if r.Revoked {
		return r, refuse(CodeUnauth, "node %s is revoked", n)
	}
	return r, nil
}

func (t *txn) report(b Report) (any, error) {
	r, err := t.member(b.Member.ID)
	if err != nil {
		return nil, err
	}
	in := b.Member
	switch {
	case in.Boot == "":
		return nil, refuse(CodeInvalid, "report without a boot id")
	case in.KeyHash != "" && in.KeyHash != r.KeyHash:
		return nil, refuse(CodeUnauth, "report of node %s under another key", in.ID)
	case slices.Contains(r.Former, in.Boot):
		return nil, refuse(CodeConflict, "boot %s of node %s was replaced by %s", in.Boot, in.ID, r.Boot)
	case in.Boot == r.Boot && r.Status == ring.Left:
		return nil, refuse(CodeConflict, "boot %s of node %s has left", in.Boot, in.ID)
	}
	if in.Name != "" && in.Name != r.Name {
		if err := id.CheckNodeName(in.Name); err != nil {
			return nil, refuse(CodeInvalid, "%v", err)
		}
		if err := t.nameFree(in.Name, r.ID); err != nil {
			return nil, err
		}
		t.unname(r.Member)
		r.Name = in.Name
		t.s.nameIndex.put(r.Name, r.ID)
	}
	r.Addresses, r.FailureDomain, r.Labels, r.Slots = in.Addresses, in.FailureDomain, in.Labels, in.Slots
	r.Version, r.Commands = in.Version, in.Commands
	cause := "joined"
	if in.Boot != r.Boot {
		if r.Boot != "" {
			cause = "restarted"
			r.Former = append(slices.Clone(r.Former), r.Boot)
			if len(r.Former) > keptBoots {
				r.Former = r.Former[len(r.Former)-keptBoots:]
			}
			t.m.rules.newBoot(t, r.ID, in.Boot)
		}
		r.Boot, r.Status, r.Since = in.Boot, ring.Alive, t.at()
	} else if r.Status == ring.Failed {
		r.Status, r.Since = ring.Alive, t.at()
	}
	t.online(&r, cause)
	t.putMember(r)
	return r.Member, nil
}

func (t *txn) setStatus(b SetStatus) (any, error) {
	r, err := t.member(b.Node)
	if err != nil {
		return nil, err
	}
	if b.Boot != r.Boot {
		return nil, refuse(CodeConflict, "news of boot %s of node %s, which runs boot %s", b.Boot, b.Node, r.Boot)
	}
	switch b.Status {
	case ring.Alive, ring.Draining, ring.Left, ring.Failed:
	default:
		return nil, refuse(CodeInvalid, "status %q: want alive, draining, left or failed", b.Status)
	}
	if r.Status == b.Status {
		return r.Member, nil
	}
	r.Status, r.Since = b.Status, t.at()
	if b.Cause == "" {
		b.Cause = "not stated"
	}
	switch b.Status {
	case ring.Alive:
		t.online(&r, b.Cause)
	case ring.Left:
		t.offline(&r, b.Cause)
		t.giveUp(r.ID, "node left")
		t.takeBack(r.ID, "node left")
	case ring.Failed:
		t.offline(&r, b.Cause)
		if r.Boot != "" && r.Dead != r.Boot {
			r.Dead = r.Boot
			t.hostFact(evNodeDead, r, b.Cause)
		}
	}
	t.putMember(r)
	return r.Member, nil
}

func (t *txn) online(r *memberRow, cause string) {
	if r.Boot == "" || r.Online == r.Boot {
		return
	}
	r.Online = r.Boot
	t.hostFact(evOnline, *r, cause)
}

func (t *txn) offline(r *memberRow, cause string) {
	if r.Boot == "" || r.Offline == r.Boot {
		return
	}
	r.Offline = r.Boot
	t.hostFact(evOffline, *r, cause)
}

// revoke shuts a node out: what it held is given up in the same entry.
func (t *txn) revoke(b Revoke) (any, error) {
	r, ok := t.s.members.get(string(b.Node))
	if !ok {
		return nil, refuse(CodeNotFound, "node %s is not in the roster", b.Node)
	}
	if !r.Revoked {
		r.Revoked, r.Since = true, t.at()
		t.offline(&r, "revoked")
		t.fact(evRevoked, t.by(), map[string]any{"node_id": r.ID, "cause": "revoked"})
		t.putMember(r)
		t.s.revoked.put(string(r.ID), ring.Revocation{Node: r.ID, KeyHash: r.KeyHash, At: t.at()})
		t.s.badKeys.put(r.KeyHash, r.ID)
		t.giveUp(r.ID, "node revoked")
		t.takeBack(r.ID, "node revoked")
		t.dropHolder(r.ID)
	}
	if b.Prune {
		return r.Member, t.forget(r.ID)
	}
	return r.Member, nil
}

func (t *txn) forget(n id.Node) error {
	r, ok := t.s.members.get(string(n))
	if !ok {
		return refuse(CodeNotFound, "node %s is not in the roster", n)
	}
	if !r.Revoked && r.Status != ring.Left {
		return refuse(CodeRefused, "node %s is %s: only a node that left or is revoked can be forgotten", n, r.Status)
	}
	t.giveUp(n, "node forgotten")
	t.takeBack(n, "node forgotten")
	t.dropHolder(n)
	t.s.members.del(string(n))
	t.unname(r.Member)
	return nil
}

// unname takes the name from m; an older bearer that is still in the roster has it again.
func (t *txn) unname(m ring.Member) {
	if n, _ := t.s.nameIndex.get(m.Name); n != m.ID {
		return
	}
	t.s.nameIndex.del(m.Name)
	if next, ok := newestBearer(&t.s, m.Name, m.ID); ok {
		t.s.nameIndex.put(m.Name, next)
	}
}

func newestBearer(s *State, name string, but id.Node) (id.Node, bool) {
	var best ring.Member
	for _, r := range s.members.all() {
		if r.Name == name && r.ID != but && (best.ID == "" || newer(r.Member, best)) {
			best = r.Member
		}
	}
	return best.ID, best.ID != ""
}

func newer(a, b ring.Member) bool {
	if !a.Enrolled.Equal(b.Enrolled) {
		return a.Enrolled.After(b.Enrolled)
	}
	return a.ID > b.ID
}

func (t *txn) putToken(b PutToken) error {
	tok := b.Token
	if _, err := id.ParseClass(string(tok.Class)); err != nil {
		return refuse(CodeInvalid, "%v", err)
	}
	switch {
	case tok.ID == "" || tok.SecretHash == "":
		return refuse(CodeInvalid, "join token needs an id and a secret")
	case tok.Uses < 1 || tok.Uses > 10_000:
		return refuse(CodeInvalid, "join token uses %d: want 1 to 10000", tok.Uses)
	case !t.at().Before(tok.Expires):
		return refuse(CodeInvalid, "join token expires in the past")
	}
	if _, ok := t.s.tokens.get(tok.ID); ok {
		return refuse(CodeConflict, "join token %s exists", tok.ID)
	}
	tok.Used, tok.Revoked, tok.Created = nil, false, t.at()
	t.s.tokens.put(tok.ID, tok)
	return nil
}

func (t *txn) revokeToken(b RevokeToken) error {
	tok, ok := t.s.tokens.get(b.ID)
	if !ok {
		return refuse(CodeNotFound, "join token %s is unknown", b.ID)
	}
	tok.Revoked = true
	t.s.tokens.put(tok.ID, tok)
	return nil
}

func (t *txn) hostFact(typ event.Type, r memberRow, cause string) {
	t.fact(typ, t.by(), map[string]any{"node_id": r.ID, "boot_id": r.Boot, "cause": cause})
}
