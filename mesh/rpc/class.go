package rpc

import (
	"strings"

	"github.com/ringagent/ringagent/internal/id"
)

// ClassSet says which classes may call a method. The zero value allows nobody and is refused at registration.
type ClassSet uint8

// The sets. A node may always call itself.
const (
	CoreOnly ClassSet = 1 << iota
	EdgeOnly
	Everybody = CoreOnly | EdgeOnly
)

// Allows says whether a node of class c is in the set. A class that is unknown never is.
func (s ClassSet) Allows(c id.Class) bool {
	switch c {
	case id.Core:
		return s&CoreOnly != 0
	case id.Edge:
		return s&EdgeOnly != 0
	}
	return false
}

// String lists the classes.
func (s ClassSet) String() string {
	var names []string
	if s&CoreOnly != 0 {
		names = append(names, string(id.Core))
	}
	if s&EdgeOnly != 0 {
		names = append(names, string(id.Edge))
	}
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ",")
}
