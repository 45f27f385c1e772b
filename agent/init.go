package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/agent/config"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/mesh"
	"github.com/ringagent/ringagent/mesh/identity"
)

// Made answers Init.
type Made struct {
	Ring    string  `json:"ring"`
	RingID  id.Ring `json:"ring_id"`
	Node    string  `json:"node"`
	DataDir string  `json:"data_dir"`
}

// seedFile is what the first start of a ring's first node still has to say to the state machine. It is written by Init and
// removed once the state has it; saying it twice is harmless.
type seedFile struct {
	Member   ring.Member   `json:"member"`
	Settings ring.Settings `json:"settings"`
}

// Init makes a new ring with this machine as its first voter. It starts nothing. A data dir that is used is refused and
// left as it was; settings are checked before anything is written.
func Init(ringName string, c config.Config, settings ring.Settings) (made Made, err error) {
	c.Class = id.Core
	if err := c.Validate(); err != nil {
		return made, api.Errorf(api.CodeInvalid, "%v", err)
	}
	if err := config.CheckRing(settings); err != nil {
		return made, api.Errorf(api.CodeInvalid, "ring settings: %v", err)
	}
	if err := id.CheckRingName(ringName); err != nil {
		return made, api.Errorf(api.CodeInvalid, "%v", err)
	}
	if used(c.DataDir) {
		return made, api.Errorf(api.CodeRefused, "data dir %s belongs to a ring already", c.DataDir).
			WithHint("start it with: ringagent agent; for a new ring name an empty folder with --data-dir")
	}
	if hasRun(c.DataDir) {
		return made, headless(c.DataDir)
	}
	_, _, granted, err := pending(c.DataDir)
	if err != nil {
		return made, err
	}
	if granted {
		return made, api.Errorf(api.CodeRefused, "data dir %s has a place in a ring, bought by a join that was interrupted", c.DataDir).
			WithHint("finish it with: ringagent join SEED; for a new ring name an empty folder with --data-dir")
	}
	b, err := lookBefore(c.DataDir)
	if err != nil {
		return made, err
	}
	d, err := openDataDir(c.DataDir)
	if err != nil {
		return made, err
	}
	defer d.close()
	defer func() {
		if err != nil {
			b.undo(false)
		}
	}()
	if _, err := hasAPIToken(c); err != nil {
		return made, err
	}
	if err := d.reserveBallast(); err != nil {
		return made, err
	}
	if err := mesh.Unfound(d.root); err != nil {
		return made, err
	}
	for _, hint := range []string{"roster.json", "peers.json"} { // a join that got no further may have left them
		if err := os.Remove(d.path(hint)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return made, fmt.Errorf("make ring: %w", err)
		}
	}
	founded, err := mesh.InitRing(mesh.InitOptions{DataDir: d.root, RingName: ringName, NodeName: c.NodeName, Hosts: hosts(c)})
	if err != nil {
		return made, meshError(err)
	}
	if err := ensureAPIToken(c); err != nil {
		return made, err
	}
	now := time.Now()
	n := nodeFile{ID: founded.Node, Name: c.NodeName, Ring: ringName, RingID: founded.Ring, Class: id.Core}
	m := ring.Member{
		ID: n.ID, Name: n.Name, Class: id.Core, KeyHash: string(founded.Entry.Key), Labels: c.Labels, FailureDomain: c.FailureDomain,
		Enrolled: now.UTC(), Status: ring.Alive, Since: now.UTC(),
	}
	if err := writeJSONFile(d.path("seed.json"), seedFile{Member: m, Settings: settings}); err != nil {
		return made, err
	}
	if err := writeConfigFile(d, c); err != nil {
		return made, err
	}
	// node.json comes last: a folder with it is whole.
	if err := d.writeNode(n); err != nil {
		return made, err
	}
	return Made{Ring: ringName, RingID: n.RingID, Node: n.Name, DataDir: c.DataDir}, nil
}

// hosts are the names under which people reach this node's API.
func hosts(c config.Config) []string {
	var out []string
	for _, a := range []string{c.Advertise, c.Listen} {
		if h, _, err := net.SplitHostPort(a); err == nil && h != "" {
			if ip := net.ParseIP(h); ip == nil || !ip.IsUnspecified() {
				out = append(out, h)
			}
		}
	}
	return out
}

// writeConfigFile keeps what was given on the command line for the next start, unless the folder has a config already.
func writeConfigFile(d *dataDir, c config.Config) error {
	path := d.path("config.yaml")
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	c.DataDir = "" // where the file lies says it, and the folder may be moved
	var err error
	if c.API.TokenFile, err = keptTokenFile(d, c.API.TokenFile); err != nil {
		return err
	}
	b, err := c.Marshal()
	if err != nil {
		return err
	}
	return identity.WriteFile(path, b)
}

func (d *dataDir) readSeed() (seedFile, bool, error) {
	var s seedFile
	b, err := os.ReadFile(d.path("seed.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return s, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("read seed.json: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, false, fmt.Errorf("read seed.json: %w", err)
	}
	return s, true, nil
}

// advertised is the address under which others shall reach this node, "" where it is to be found out.
func advertised(c config.Config) string {
	if c.Advertise != "" {
		return c.Advertise
	}
	if h, _, err := net.SplitHostPort(c.Listen); err == nil && h != "" {
		if ip := net.ParseIP(h); ip == nil || !ip.IsUnspecified() {
			return c.Listen
		}
	}
	return ""
}
