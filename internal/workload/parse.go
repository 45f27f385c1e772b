package workload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// The file as written, before its values are checked. Durations and numbers stay text, so that a fault can be reported
// in the file's own words.
type rawWorkload struct {
	Version int                 `yaml:"version"`
	Name    string              `yaml:"name"`
	Configs []string            `yaml:"configs"`
	Stages  map[string]rawStage `yaml:"stages"`
}

type rawStage struct {
	Argv       []string          `yaml:"argv"`
	Env        map[string]string `yaml:"env"`
	Dir        string            `yaml:"dir"`
	Needs      rawSlots          `yaml:"needs"`
	Timeout    string            `yaml:"timeout"`
	NoProgress string            `yaml:"no_progress"`
	Grace      string            `yaml:"grace"`
	Progress   string            `yaml:"progress"`
	Outputs    []rawOutput       `yaml:"outputs"`
}

type rawSlots struct {
	CPU     *int64 `yaml:"cpu"`
	GPU     int64  `yaml:"gpu"`
	VRAMMiB int64  `yaml:"vram_mib"`
	RAMMiB  int64  `yaml:"ram_mib"`
	DiskMiB int64  `yaml:"disk_mib"`
}

type rawOutput struct {
	Path     string           `yaml:"path"`
	Kind     string           `yaml:"kind"`
	Min      map[string]int64 `yaml:"min"`
	Optional bool             `yaml:"optional"`
}

// Parse reads and checks a workload file; file is its name in errors. Every fault is a *Problem with line and column; when
// the document can be read at all, all faults are reported at once, joined.
func Parse(data []byte, file string) (*Workload, error) { return parse(data, file, false) }

// ParseStored is Parse for a workload that the ring has taken already. Demands that are younger than its format do not make it
// unusable: a stage that does not promise what it is for is left to fail by itself, and a count that is not asked for is.
func ParseStored(data []byte, file string) (*Workload, error) { return parse(data, file, true) }

func parse(data []byte, file string, stored bool) (*Workload, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if err := precheck(data, file); err != nil {
		return nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict())
	var raw rawWorkload
	if err := dec.Decode(&raw); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, &Problem{File: file, Text: "is empty", Fix: "a workload has version, name, configs and stages"}
		}
		return nil, valueProblem(err, data, file)
	}
	var second any
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, &Problem{File: file, Text: "holds more than one YAML document"}
	}
	tree, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, syntaxProblem(err, file)
	}
	c := &checker{file: file, tree: tree, stored: stored}
	w := c.workload(raw)
	if !stored {
		c.fractions()
	}
	if len(c.problems) > 0 {
		return nil, errors.Join(c.problems...)
	}
	return w, nil
}

// counted are the places of a workload that hold numbers; everywhere else stands text.
var counted = regexp.MustCompile(`^\$\.(version$|stages\.[^.]+\.(needs|outputs\[\d+\]\.min)\.)`)

// fractions refuses what the YAML library would change in silence: numbers lose their fractions, and of text that looks like a
// number it makes the shortest one, 1.1 of 1.10.
func (c *checker) fractions() {
	for _, d := range c.tree.Docs {
		if d.Body == nil {
			continue
		}
		for _, n := range ast.Filter(ast.FloatType, d.Body) {
			f, ok := n.(*ast.FloatNode)
			if !ok {
				continue
			}
			p := &Problem{File: c.file, Line: f.Token.Position.Line, Column: f.Token.Position.Column}
			switch read := fmt.Sprint(f.Value); {
			case counted.MatchString(f.GetPath()):
				p.Text = f.Token.Value + ": want a whole number"
			case read != f.Token.Value:
				p.Text, p.Fix = fmt.Sprintf("%s would be read as %s", f.Token.Value, read), fmt.Sprintf("put it in quotes: %q", f.Token.Value)
			default:
				continue
			}
			c.problems = append(c.problems, p)
		}
	}
}

// precheck bounds what the YAML library is given: its cost grows with the square of the nesting depth.
func precheck(data []byte, file string) error {
	if len(data) > MaxFileBytes {
		return &Problem{File: file, Text: fmt.Sprintf("is larger than %d KiB", MaxFileBytes>>10)}
	}
	depth := 0
	for i, line := range bytes.Split(data, []byte("\n")) {
		at := func(col int, text string) error {
			return &Problem{File: file, Line: i + 1, Column: col + 1, Text: text}
		}
		if len(line) > MaxLineBytes {
			return at(MaxLineBytes, fmt.Sprintf("line is longer than %d bytes", MaxLineBytes))
		}
		if col := bytes.IndexByte(line, 0); col >= 0 {
			return at(col, "holds a NUL byte")
		}
		if !utf8.Valid(line) {
			return at(0, "is not UTF-8")
		}
		for col, b := range line {
			switch b {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(0, depth-1)
			}
			if depth > maxFlowDepth {
				return at(col, "is nested too deeply")
			}
		}
		if n := nestedDashes(line); n > maxFlowDepth {
			return at(0, "is nested too deeply")
		}
	}
	return nil
}

// nestedDashes counts the "- " with which a line begins: block sequences can be nested on one line.
func nestedDashes(line []byte) int {
	n := 0
	for line = bytes.TrimLeft(line, " "); bytes.HasPrefix(line, []byte("- ")); line = bytes.TrimLeft(line[2:], " ") {
		n++
	}
	return n
}

// valueProblem is of a file that is YAML, but not of this form: it can also say of which key.
func valueProblem(err error, data []byte, file string) error {
	p := syntaxProblem(err, file)
	if plain := PlainTypes(p.Text); plain != p.Text {
		p.Text, p.Field = plain, fieldAt(data, p.Line, p.Column)
		if strings.HasSuffix(p.Field, ".argv") {
			p.Fix = argvFix
		}
	}
	return p
}

// argvFix is how a command is written.
const argvFix = `such as ["{self}", …]`

func syntaxProblem(err error, file string) *Problem {
	var ye yaml.Error
	if !errors.As(err, &ye) {
		return &Problem{File: file, Text: err.Error()}
	}
	p := &Problem{File: file, Text: ye.GetMessage()}
	if tok := ye.GetToken(); tok != nil && tok.Position != nil {
		p.Line, p.Column = tok.Position.Line, tok.Position.Column
	}
	var unknown *yaml.UnknownFieldError
	if errors.As(err, &unknown) && unknown.GetToken() != nil {
		key := unknown.GetToken().Value
		p.Text = fmt.Sprintf("unknown key %q", key)
		p.Fix = suggest(key, fileKeys())
	}
	return p
}

func fileKeys() []string {
	return []string{"version", "name", "configs", "stages", "argv", "env", "dir", "needs", "timeout", "no_progress",
		"grace", "progress", "outputs", "cpu", "gpu", "vram_mib", "ram_mib", "disk_mib", "path", "kind", "min", "optional"}
}

// position finds where a value stands in the file; when the exact path cannot be found, where its nearest parent stands.
func position(tree *ast.File, path string) (line, column int) {
	for path != "" {
		if p, err := yaml.PathString("$." + path); err == nil {
			if node, err := p.FilterFile(tree); err == nil && node != nil {
				if tok := firstToken(node); tok != nil && tok.Position != nil {
					return tok.Position.Line, tok.Position.Column
				}
			}
		}
		cut := bytes.LastIndexAny([]byte(path), ".[")
		if cut < 0 {
			break
		}
		path = path[:cut]
	}
	return 1, 1
}

// firstToken is where a node begins; a mapping's own token is the colon after its first key.
func firstToken(node ast.Node) *token.Token {
	switch n := node.(type) {
	case *ast.MappingNode:
		if len(n.Values) > 0 {
			return n.Values[0].Key.GetToken()
		}
	case *ast.MappingValueNode:
		return n.Key.GetToken()
	}
	return node.GetToken()
}

// suggest proposes the nearest of the known words, or "" when none is near.
func suggest(word string, known []string) string {
	best, bestDistance := "", 3
	for _, k := range known {
		d := distance(word, k)
		if sortedLetters(word) == sortedLetters(k) {
			d = min(d, 1) // swapped letters are the commonest slip
		}
		if d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", best)
}

func sortedLetters(s string) string {
	b := []byte(s)
	slices.Sort(b)
	return string(b)
}

// distance is the number of single-letter edits between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
