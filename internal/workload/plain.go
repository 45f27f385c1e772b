package workload

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

var (
	// goTypes and nodeTypes are how the YAML library says that a value is of the wrong type.
	goTypes   = regexp.MustCompile(`cannot unmarshal (\S+(?: \{\})?) into Go (?:struct field \S+|value) of type (\S+)`)
	nodeTypes = regexp.MustCompile(`(\w+) was used where (\w+) is expected`)
)

// PlainTypes says what the YAML library says of a value of the wrong type without the names of Go's types, here and for other
// files that people write.
func PlainTypes(text string) string {
	for _, form := range []*regexp.Regexp{goTypes, nodeTypes} {
		text = form.ReplaceAllStringFunc(text, func(found string) string {
			m := form.FindStringSubmatch(found)
			return fmt.Sprintf("want %s, not %s", plainType(m[2]), plainGiven(m[1]))
		})
	}
	return text
}

func plainType(name string) string {
	switch {
	case strings.HasPrefix(name, "int"), strings.HasPrefix(name, "uint"):
		return "a whole number"
	case strings.HasPrefix(name, "float"):
		return "a number"
	case strings.HasPrefix(name, "bool"):
		return "true or false"
	case name == "string":
		return "text"
	case name == "sequence", strings.HasPrefix(name, "[]"):
		return "a list"
	case name == "mapping", strings.HasPrefix(name, "map"):
		return "a table"
	}
	return name
}

// plainGiven is plainType for a value that is there: of a number, that it is one says enough.
func plainGiven(name string) string {
	switch {
	case name == "sequence", strings.HasPrefix(name, "[]"):
		return "a list"
	case name == "mapping", strings.HasPrefix(name, "map"):
		return "a table"
	case name == "string":
		return "text"
	}
	return name
}

// fieldAt is the path of the value that stands at a place of the file, or "" if none is found.
func fieldAt(data []byte, line, column int) string {
	tree, err := parser.ParseBytes(data, 0)
	if err != nil || line == 0 {
		return ""
	}
	f := &finder{line: line, column: column}
	for _, d := range tree.Docs {
		if d.Body != nil {
			ast.Walk(f, d.Body)
		}
	}
	return strings.TrimPrefix(strings.TrimPrefix(f.path, "$"), ".")
}

type finder struct {
	line, column int
	path         string
}

// Visit implements ast.Visitor.
func (f *finder) Visit(n ast.Node) ast.Visitor {
	_, entry := n.(*ast.MappingValueNode)
	if f.path == "" && !entry && (f.stands(n.GetToken()) || f.stands(firstToken(n))) {
		f.path = n.GetPath()
	}
	return f
}

func (f *finder) stands(t *token.Token) bool {
	return t != nil && t.Position != nil && t.Position.Line == f.line && t.Position.Column == f.column
}
