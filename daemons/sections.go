package daemons

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/internal/ring"
)

// CheckSection says what is wrong with a daemon's section of the ring settings, naming the key.
func CheckSection(name string, section json.RawMessage) error {
	s, ok := ByName(name)
	switch {
	case !ok:
		return fmt.Errorf("there is no daemon of this name; there are %s", strings.Join(current(), ", "))
	case s.AliasOf != "":
		return fmt.Errorf("deprecated name; write %s", s.AliasOf)
	}
	return s.CheckSettings(section)
}

// current lists the names that are not deprecated.
func current() []string {
	var out []string
	for _, s := range All() {
		if s.AliasOf == "" {
			out = append(out, s.Name)
		}
	}
	slices.Sort(out)
	return out
}

// Enabled says whether the ring settings want a daemon to run; without a word they do.
func Enabled(r ring.Settings, name string) bool {
	b, err := kit.DecodeBasics(r.Daemons[name])
	return err != nil || b.Enabled == nil || *b.Enabled
}
