package config

import (
	"errors"
	"fmt"
	"slices"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// onlyDocument refuses what the YAML library passes over in silence: documents behind the first one, and keys that are no
// text where keys have names. It says false when the file holds nothing but comments.
func onlyDocument(b []byte, file string) (says bool, err error) {
	tree, err := parser.ParseBytes(b, 0)
	if err != nil {
		return false, fmt.Errorf("%s: %s", file, yaml.FormatError(err, false, true))
	}
	for _, d := range tree.Docs {
		switch body := d.Body.(type) {
		case nil, *ast.DirectiveNode:
		default:
			if says {
				return false, fmt.Errorf("%s: line %d: a second YAML document, which nobody would read", file, body.GetToken().Position.Line)
			}
			says = true
			if err := errors.Join(textKeys(body, file), fractions(body, file)); err != nil {
				return false, err
			}
		}
	}
	return says, nil
}

// textKeys finds a key that is a number or the like, in the document and in its sections. An unknown name is found later.
func textKeys(body ast.Node, file string) error {
	m, ok := body.(*ast.MappingNode)
	if !ok {
		return nil
	}
	for _, v := range m.Values {
		switch key := v.Key.(type) {
		case *ast.StringNode:
			if slices.Contains([]string{"labels", "copies", "daemons"}, key.Value) {
				continue // the keys in there are the user's own
			}
		case *ast.MergeKeyNode:
		default:
			return fmt.Errorf("%s: line %d: unknown field %s", file, v.Key.GetToken().Position.Line, v.Key)
		}
		if err := textKeys(v.Value, file); err != nil {
			return err
		}
	}
	return nil
}

// fractions finds numbers that the YAML library would cut off in silence: elsewhere they are text, or daemons know their own.
func fractions(body ast.Node, file string) error {
	m, ok := body.(*ast.MappingNode)
	if !ok {
		return nil
	}
	for _, v := range m.Values {
		if key, ok := v.Key.(*ast.StringNode); !ok || !slices.Contains([]string{"voters", "copies", "retention", "slots"}, key.Value) {
			continue
		}
		for _, f := range ast.Filter(ast.FloatType, v) {
			return fmt.Errorf("%s: line %d: %s: %s: want a whole number", file, f.GetToken().Position.Line, v.Key, f)
		}
	}
	return nil
}
