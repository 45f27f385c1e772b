package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml"

	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
	"github.com/ringagent/ringagent/internal/workload"
)

// DefaultPort is the ring's TCP port where none is named.
const DefaultPort = 8770

// MaxFile is the largest config file that is read, in bytes.
const MaxFile = 1 << 20

// Config is what belongs to one machine. What a singleton must see alike everywhere is in the ring settings instead.
type Config struct {
	NodeName      string            `yaml:"node_name,omitempty" json:"node_name"`
	DataDir       string            `yaml:"data_dir,omitempty" json:"data_dir"`
	Listen        string            `yaml:"listen,omitempty" json:"listen"`
	Advertise     string            `yaml:"advertise,omitempty" json:"advertise"` // "" = found out by asking the seed
	Join          []string          `yaml:"join,omitempty" json:"join"`
	Class         id.Class          `yaml:"class,omitempty" json:"class"`
	Profile       string            `yaml:"profile,omitempty" json:"profile"` // core, edge, gpu, full, minimal
	FailureDomain string            `yaml:"failure_domain,omitempty" json:"failure_domain"`
	Labels        map[string]string `yaml:"labels,omitempty" json:"labels"`
	Slots         ring.Slots        `yaml:"slots,omitempty" json:"slots"`   // a zero field is measured
	Gossip        string            `yaml:"gossip,omitempty" json:"gossip"` // lan, wan
	Log           Log               `yaml:"log,omitempty" json:"log"`
	API           API               `yaml:"api,omitempty" json:"api"`
}

// Log says how the agent logs.
type Log struct {
	Level  string `yaml:"level,omitempty" json:"level"`   // debug, info, warn, error
	Format string `yaml:"format,omitempty" json:"format"` // json, console
}

// API says how the operator's API is guarded.
type API struct {
	TokenFile    string `yaml:"token_file,omitempty" json:"token_file"`       // "" = api.token in the data dir, see TokenPath
	LoopbackOpen *bool  `yaml:"loopback_open,omitempty" json:"loopback_open"` // nil = true
}

// LoopbackReads says whether reading is free on loopback.
func (a API) LoopbackReads() bool { return a.LoopbackOpen == nil || *a.LoopbackOpen }

// TokenPath is the file with the operator's token. It goes by the data dir in force, which is known only after file and flags.
func (c Config) TokenPath() string {
	if c.API.TokenFile != "" {
		return c.API.TokenFile
	}
	return filepath.Join(c.DataDir, "api.token")
}

// Default is the config of a machine that says nothing.
func Default(dataDir string) Config {
	host, err := os.Hostname()
	if err != nil || id.CheckNodeName(host) != nil {
		host = "node"
	}
	return Config{
		NodeName: host, DataDir: dataDir, Listen: ":" + strconv.Itoa(DefaultPort), Class: id.Edge, Gossip: "lan",
		Log: Log{Level: "info", Format: "json"},
	}
}

// Find is the file that Load would read: named, else in the data dir, else in /etc; "" if there is none.
func Find(dataDir, named string) string {
	if named != "" {
		return named
	}
	for _, f := range []string{filepath.Join(dataDir, "config.yaml"), "/etc/ringagent/config.yaml"} {
		if _, err := os.Stat(f); err == nil {
			return f
		}
	}
	return ""
}

// Load reads file over the defaults; file "" gives the defaults alone. Nothing is validated yet, because flags come later.
func Load(dataDir, file string) (Config, Origins, error) {
	c := Default(dataDir)
	origins := Origins{}
	if file == "" {
		return c, origins, nil
	}
	b, err := ReadFile(file)
	if err != nil {
		return c, nil, err
	}
	if err := decode(b, file, &c); err != nil {
		return c, nil, err
	}
	var keys map[string]any
	if err := yaml.Unmarshal(b, &keys); err == nil {
		origins.mark("", keys, file)
	}
	return c, origins, nil
}

// ReadFile reads a file of settings: a regular one of at most MaxFile bytes, so that neither a pipe nor a disk image is waited for.
func ReadFile(file string) ([]byte, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("read file %s: not a regular file", file)
	}
	if st.Size() > MaxFile {
		return nil, fmt.Errorf("read file %s: %d bytes, more than %d", file, st.Size(), MaxFile)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read file: %w", err)
	}
	return bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), nil
}

// decode reads YAML strictly: an unknown or doubled key is an error with its line, and so is what would not be read at all.
// A file that says nothing changes nothing.
func decode(b []byte, file string, out any) error {
	if err := checkDepth(b, file); err != nil {
		return err
	}
	switch says, err := onlyDocument(b, file); {
	case err != nil:
		return err
	case !says:
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict(), yaml.DisallowUnknownField())
	if err := dec.Decode(out); err != nil {
		return fmt.Errorf("%s: %s", file, workload.PlainTypes(yaml.FormatError(err, false, true)))
	}
	return nil
}

// maxDepth bounds what the YAML library is given: its cost grows with the square of the nesting.
const maxDepth = 64

func checkDepth(b []byte, file string) error {
	depth, line := 0, 1
	for _, c := range b {
		switch c {
		case '\n':
			line++
		case 0:
			return fmt.Errorf("%s: line %d: holds a NUL byte", file, line)
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(0, depth-1)
		}
		if depth > maxDepth {
			return fmt.Errorf("%s: line %d: is nested too deeply", file, line)
		}
	}
	return nil
}

// Validate names the first field that cannot stand, and the mend.
func (c Config) Validate() error {
	if err := id.CheckNodeName(c.NodeName); err != nil {
		return fmt.Errorf("node_name: %w", err)
	}
	if c.DataDir == "" {
		return errors.New("data_dir: must be set")
	}
	if err := checkListen(c.Listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if c.Advertise != "" {
		if err := checkAdvertise(c.Advertise, c.Listen); err != nil {
			return fmt.Errorf("advertise: %w", err)
		}
	}
	for _, s := range c.Join {
		if _, err := Seed(s); err != nil {
			return fmt.Errorf("join: %w", err)
		}
	}
	if _, err := id.ParseClass(string(c.Class)); err != nil {
		return err
	}
	if err := oneOf("profile", c.Profile, "", "core", "edge", "gpu", "full", "minimal"); err != nil {
		return err
	}
	if err := oneOf("gossip", c.Gossip, "lan", "wan"); err != nil {
		return err
	}
	if err := oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error"); err != nil {
		return err
	}
	if err := oneOf("log.format", c.Log.Format, "json", "console"); err != nil {
		return err
	}
	if err := checkWord(c.FailureDomain); c.FailureDomain != "" && err != nil {
		return fmt.Errorf("failure_domain %w", err)
	}
	if len(c.Labels) > maxLabels {
		return fmt.Errorf("labels: want at most %d, not %d", maxLabels, len(c.Labels))
	}
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		if err := checkWord(k); err != nil {
			return fmt.Errorf("labels: key %w", err)
		}
		if v := c.Labels[k]; len(v) > maxWord || strings.ContainsFunc(v, unicode.IsControl) {
			return fmt.Errorf("labels.%s: want at most %d bytes without control characters", k, maxWord)
		}
	}
	for name, n := range map[string]int{"cpu": c.Slots.CPU, "gpu": c.Slots.GPU, "vram_mib": c.Slots.VRAMMiB, "ram_mib": c.Slots.RAMMiB, "disk_mib": c.Slots.DiskMiB} {
		if n < 0 || n > maxSlots {
			return fmt.Errorf("slots.%s %d: want 0 (measured) to %d", name, n, maxSlots)
		}
	}
	return nil
}

// maxSlots is more than any machine has of anything, and small enough to be added up.
const maxSlots = 1 << 30

// maxWord bounds a failure domain, and a label's key and value, in bytes: every node keeps those of all.
const maxWord = 128

// maxLabels bounds the labels of a node: a coordinator refuses a report that is too long, and a node learns that late.
const maxLabels = 32

// checkWord keeps names that are compared and printed in columns to one word.
func checkWord(s string) error {
	bad := func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }
	if s == "" || len(s) > maxWord || strings.ContainsFunc(s, bad) {
		return fmt.Errorf("%q: want one word of at most %d bytes", s, maxWord)
	}
	return nil
}

func oneOf(field, got string, want ...string) error {
	for _, w := range want {
		if got == w {
			return nil
		}
	}
	return fmt.Errorf("%s %q: want one of %s", field, got, strings.TrimPrefix(strings.Join(want, ", "), ", "))
}

func checkListen(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q: want [host]:port", s)
	}
	return checkPort(s, port, 0)
}

func checkPort(s, port string, least int) error {
	n, err := strconv.Atoi(port)
	if err != nil || n < least || n > 65535 {
		return fmt.Errorf("%q: port must be %d to 65535", s, least)
	}
	return nil
}

// checkAdvertise refuses addresses that nobody else could reach; loopback is right only where listening is on loopback.
func checkAdvertise(s, listen string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q: want host:port", s)
	}
	if err := checkPort(s, port, 1); err != nil {
		return err
	}
	ip := net.ParseIP(host)
	if ip == nil {
		if host == "" {
			return fmt.Errorf("%q: want host:port with a host that others can reach", s)
		}
		return nil
	}
	if ip.IsUnspecified() || ip.IsMulticast() {
		return fmt.Errorf("%q: nobody can be reached at this address", s)
	}
	listenHost, _, _ := net.SplitHostPort(listen)
	if lip := net.ParseIP(listenHost); ip.IsLoopback() && (lip == nil || !lip.IsLoopback()) {
		return fmt.Errorf("%q: a loopback address is reachable only from this machine; name its outer address, or listen on loopback too", s)
	}
	return nil
}

// Seed completes a seed's address with the default port.
func Seed(s string) (string, error) {
	if s == "" {
		return "", errors.New("empty seed: want host[:port]")
	}
	if _, port, err := net.SplitHostPort(s); err == nil {
		return s, checkPort(s, port, 1)
	}
	full := net.JoinHostPort(strings.Trim(s, "[]"), strconv.Itoa(DefaultPort))
	if _, _, err := net.SplitHostPort(full); err != nil {
		return "", fmt.Errorf("seed %q: want host[:port]", s)
	}
	return full, nil
}

// Marshal is the config as YAML, for `init`, `join` and `dev` to write down.
func (c Config) Marshal() ([]byte, error) {
	b, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write config: %w", err)
	}
	return b, nil
}
