package ring

import (
	"time"

	"github.com/ringagent/ringagent/internal/id"
)

// Status is what the coordinator's roster entry says of a node.
type Status string

// Roster statuses. Failed needs three readings to agree (gossip, a failed dial-back, the age of the last report); gossip
// alone never sets it.
const (
	Alive    Status = "alive"
	Draining Status = "draining"
	Left     Status = "left"
	Failed   Status = "failed"
)

// Slots is what a node can give to jobs, or what a job needs. Zero means none.
type Slots struct {
	CPU     int `json:"cpu,omitempty" yaml:"cpu,omitempty"`           // threads
	GPU     int `json:"gpu,omitempty" yaml:"gpu,omitempty"`           // devices
	VRAMMiB int `json:"vram_mib,omitempty" yaml:"vram_mib,omitempty"` // of one device
	RAMMiB  int `json:"ram_mib,omitempty" yaml:"ram_mib,omitempty"`
	DiskMiB int `json:"disk_mib,omitempty" yaml:"disk_mib,omitempty"`
}

// Fits says whether need can be met by s.
func (s Slots) Fits(need Slots) bool {
	return need.CPU <= s.CPU && need.GPU <= s.GPU && need.VRAMMiB <= s.VRAMMiB && need.RAMMiB <= s.RAMMiB && need.DiskMiB <= s.DiskMiB
}

// Add is s plus o, Sub is s minus o; both per field.
func (s Slots) Add(o Slots) Slots {
	return Slots{s.CPU + o.CPU, s.GPU + o.GPU, s.VRAMMiB + o.VRAMMiB, s.RAMMiB + o.RAMMiB, s.DiskMiB + o.DiskMiB}
}

// Sub is s minus o, per field.
func (s Slots) Sub(o Slots) Slots {
	return Slots{s.CPU - o.CPU, s.GPU - o.GPU, s.VRAMMiB - o.VRAMMiB, s.RAMMiB - o.RAMMiB, s.DiskMiB - o.DiskMiB}
}

// Member is one enrolled node in the roster. Key and id are its identity; the name is for people and means its newest
// bearer.
type Member struct {
	ID            id.Node           `json:"id"`
	Name          string            `json:"name"`
	Class         id.Class          `json:"class"`
	KeyHash       string            `json:"key_hash"` // SHA-256 of the public key (SubjectPublicKeyInfo), hex
	Addresses     []string          `json:"addresses,omitempty"`
	FailureDomain string            `json:"failure_domain,omitempty"` // "" means the node itself
	Labels        map[string]string `json:"labels,omitempty"`
	Slots         Slots             `json:"slots"`
	Boot          id.Boot           `json:"boot,omitempty"` // the newest boot that reported
	Version       string            `json:"version,omitempty"`
	Commands      int               `json:"commands,omitempty"` // newest command version the node supports
	Enrolled      time.Time         `json:"enrolled"`
	Status        Status            `json:"status"`
	Since         time.Time         `json:"since"` // of Status
	Revoked       bool              `json:"revoked,omitempty"`
}

// Live says that work and singletons may be placed on the member as far as the roster knows.
func (m Member) Live() bool { return m.Status == Alive && !m.Revoked && m.Boot != "" }

// Serves says that what the member holds can be had from it as far as the roster knows: also while it drains.
func (m Member) Serves() bool { return m.Status != Failed && m.Status != Left && !m.Revoked }

// Domain is the failure domain that copies are counted in.
func (m Member) Domain() string {
	if m.FailureDomain != "" {
		return m.FailureDomain
	}
	return string(m.ID)
}

// Token is a join token as the state keeps it: its secret only as a hash.
type Token struct {
	ID         string     `json:"id"`
	SecretHash string     `json:"secret_hash"`
	Class      id.Class   `json:"class"`
	Uses       int        `json:"uses"`
	Used       []TokenUse `json:"used,omitempty"`
	Created    time.Time  `json:"created"`
	Expires    time.Time  `json:"expires"`
	Revoked    bool       `json:"revoked,omitempty"`
}

// TokenUse binds one use of a token to the key that presented it, so that the same key may ask again.
type TokenUse struct {
	KeyHash string    `json:"key_hash"`
	Node    id.Node   `json:"node"`
	At      time.Time `json:"at"`
}

// Assignment says which node runs a singleton, and under which epoch.
type Assignment struct {
	Daemon  string    `json:"daemon"`
	Node    id.Node   `json:"node"` // "" = unassigned
	Boot    id.Boot   `json:"boot"`
	Epoch   id.Epoch  `json:"epoch"`
	Standby id.Node   `json:"standby,omitempty"`
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason,omitempty"` // why there, or why nowhere
}

// Fence is the right under which a singleton acts: every command of its effects carries it, and the state machine refuses
// one that is not the daemon's current epoch.
type Fence struct {
	Daemon string   `json:"daemon"`
	Epoch  id.Epoch `json:"epoch"`
}

// Revocation shuts a node id and its key out for good, also after the node was forgotten.
type Revocation struct {
	Node    id.Node   `json:"node"`
	KeyHash string    `json:"key_hash"`
	At      time.Time `json:"at"`
}
