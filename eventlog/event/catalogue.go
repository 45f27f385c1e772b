package event

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Source says which kind of part states an event.
type Source string

// The sources of events.
const (
	SourceCore     Source = "core"     // the state machine or the agent itself
	SourceDaemon   Source = "daemon"   // one of the daemons
	SourceExternal Source = "external" // anybody: operators, other processes of the host
)

// Publisher names who wants to publish: a daemon by its upper-case name, or one of the constants below.
type Publisher string

// Publishers that are no daemons.
const (
	ByState    Publisher = "state"    // the state machine, inside the entry of the effect itself
	ByAgent    Publisher = "agent"    // the agent outside any daemon
	ByExternal Publisher = "external" // clients of the socket, the HTTP API and the spool folder
)

// Definition describes one type of event.
type Definition struct {
	Type    Type     `json:"type"`
	Wire    string   `json:"wire_name"` // the lower-case name that the old system used
	Aliases []string `json:"aliases,omitempty"`
	Doc     string   `json:"doc"`
	Source  Source   `json:"source"`
	Fields  []Field  `json:"fields"`
	// Fact says that only Owners may state the event. What is no fact is a hint or a request: anybody may state it, since
	// daemons check against the state before they act.
	Fact   bool        `json:"fact,omitempty"`
	Owners []Publisher `json:"owners,omitempty"` // who states it
}

// Catalog is the set of all event types. It is immutable and safe for concurrent use.
type Catalog struct {
	defs   []Definition
	schema map[Type]*schema
	names  map[string]*schema // all spellings
}

// Catalogue returns the types that this binary knows, sorted by name. It is built once, by the first call.
func Catalogue() *Catalog { return theCatalogue() }

var theCatalogue = sync.OnceValue(func() *Catalog {
	c, err := newCatalog(entries())
	if err != nil {
		// The list is part of the program; a test builds it, so this cannot happen in a released binary.
		panic(err)
	}
	return c
})

func newCatalog(list []entry) (*Catalog, error) {
	c := &Catalog{schema: make(map[Type]*schema), names: make(map[string]*schema)}
	for _, e := range list {
		s := e.schema()
		t := s.def.Type
		if _, twice := c.schema[t]; twice {
			return nil, fmt.Errorf("event %s is defined twice", t)
		}
		c.schema[t] = s
		c.defs = append(c.defs, s.def)
		for _, n := range append([]string{string(t), strings.ToLower(string(t)), s.def.Wire}, s.def.Aliases...) {
			if other := c.names[n]; other != nil && other != s {
				return nil, fmt.Errorf("event name %q means both %s and %s", n, other.def.Type, t)
			}
			c.names[n] = s
		}
	}
	slices.SortFunc(c.defs, func(a, b Definition) int { return strings.Compare(string(a.Type), string(b.Type)) })
	return c, nil
}

// All returns every definition, sorted by type.
func (c *Catalog) All() []Definition { return slices.Clone(c.defs) }

// Lookup finds a definition by canonical name, by old wire name, by another old spelling or by any of these in another
// case.
func (c *Catalog) Lookup(name string) (Definition, bool) {
	s := c.named(name)
	if s == nil {
		return Definition{}, false
	}
	return s.def, true
}

// Canonical is the type that a name in any of its spellings means.
func (c *Catalog) Canonical(name string) (Type, bool) {
	s := c.named(name)
	if s == nil {
		return "", false
	}
	return s.def.Type, true
}

// named is the schema that a name in any of its spellings means, or nil.
func (c *Catalog) named(name string) *schema {
	if s, ok := c.names[name]; ok {
		return s
	}
	return c.names[strings.ToLower(strings.TrimSpace(name))]
}
