package event

import (
	"fmt"
	"slices"
	"strings"
)

// Prepare makes a draft fit to be published by by: the canonical type name, a checked payload in our own field names with
// node_id filled in, a cause and a daemon that are no longer than they may be, and the owner's right to state it. The payload
// is d's own, not a copy, where nothing had to be changed.
// Errors are *ProblemError.
func (c *Catalog) Prepare(d Draft, by Publisher) (Draft, error) {
	s := c.named(string(d.Type))
	if s == nil {
		return Draft{}, &ProblemError{Type: string(d.Type), Detail: "see ringagent events types", Kind: ErrUnregistered}
	}
	if s.def.Fact && !slices.Contains(s.def.Owners, by) {
		return Draft{}, &ProblemError{Type: string(s.def.Type), Detail: fmt.Sprintf("stated by %s, not by %s", join(s.def.Owners), by), Kind: ErrNotOwner}
	}
	if len(d.Cause) > MaxCause {
		return Draft{}, s.wrong("cause", fmt.Sprintf("%d bytes, the limit is %d; it is the id of an event", len(d.Cause), MaxCause))
	}
	if len(d.Daemon) > MaxDaemon {
		return Draft{}, s.wrong("daemon", fmt.Sprintf("%d bytes, the limit is %d", len(d.Daemon), MaxDaemon))
	}
	p, err := s.normalise(d.Payload, d.Node)
	if err != nil {
		return Draft{}, err
	}
	d.Type, d.Payload = s.def.Type, p
	return d, nil
}

func join(owners []Publisher) string {
	out := make([]string, len(owners))
	for i, o := range owners {
		out[i] = string(o)
	}
	return strings.Join(out, ", ")
}

// Vet says what is wrong with the bytes of a draft, whoever of its owners states it: ErrMalformed, or what Prepare says. It
// allocates nothing for one that Prepare would leave as it is.
func (c *Catalog) Vet(draft []byte) error {
	if c.settled(draft) {
		return nil
	}
	d, err := DecodeDraft(draft)
	if err != nil {
		return err
	}
	if !datable(d.Time) {
		return &ProblemError{Type: string(d.Type), Field: "time", Detail: "it is of no year that can be written", Kind: ErrInvalid}
	}
	by := ByExternal
	if s := c.named(string(d.Type)); s != nil && len(s.def.Owners) > 0 {
		by = s.def.Owners[0]
	}
	_, err = c.Prepare(d, by)
	return err
}

// settled says that the bytes are a draft to which Prepare would do nothing. Where it is not sure it says no.
func (c *Catalog) settled(draft []byte) bool {
	typ, daemon, cause, payload, ok := peek(draft)
	if !ok || len(daemon) > MaxDaemon || len(cause) > MaxCause || len(payload) > MaxPayload {
		return false
	}
	s := c.names[string(typ)]
	if s == nil || s.def.Fact && len(s.def.Owners) == 0 {
		return false
	}
	out, ok := s.quick(payload, "")
	return ok && len(out) <= MaxPayload
}
