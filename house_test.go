// Package ringagent_test keeps the rules of the house: who may import whom, and what no package may do. Each rule has its
// reason beside it; docs/architecture.md has the picture.
package ringagent_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/ringagent/ringagent/"

type pkg struct {
	ImportPath   string
	Dir          string
	Doc          string
	GoFiles      []string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func (p pkg) rel() string { return strings.TrimPrefix(p.ImportPath, module) }

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Doc,GoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages", len(all))
	}
	return all
}

func under(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// leaves may be imported by everybody: they hold plain data or arithmetic, or ask the system or a file one thing, and import nothing of ours but each other.
var leaves = []string{"internal/id", "internal/ring", "internal/pace", "internal/field", "internal/disk", "internal/boltfile", "eventlog/event"}

func isLeaf(p string) bool {
	for _, l := range leaves {
		if under(p, l) {
			return true
		}
	}
	return false
}

// may says whether from may import to, and if not, why not.
func may(from, to string) (bool, string) {
	if isLeaf(to) {
		return true, ""
	}
	switch {
	case under(from, "scripts") && !under(to, "cmd"):
		return true, "" // programs that measure and attack from outside; nothing can import them
	case isLeaf(from):
		return false, "leaves are what everybody shares; one that imports more than leaves drags it everywhere"
	case under(to, "cmd"):
		return false, "nothing imports the command line"
	case under(to, "agent") && !under(from, "agent") && !under(from, "cmd"):
		return false, "the agent is where the parts meet; a part that imports it makes a circle in thought, if not in code"
	case under(from, "cmd"), from == "agent", under(from, "agent/agenttest"), under(from, "agent/node"):
		return true, ""
	case under(from, "agent"):
		ok := under(to, "agent") || under(to, "daemons") || under(to, "internal")
		return ok, "below agent, only agent itself knows mesh, leader and eventlog"
	case under(from, "mesh"), under(from, "leader"), under(from, "eventlog"):
		root, _, _ := strings.Cut(from, "/")
		return under(to, root), "mesh, leader and eventlog are siblings that meet in agent, through interfaces of whoever uses them"
	case from == "internal/connect4":
		return to == "internal/gamedb" || to == "internal/npz" || to == "internal/rating", "the built-in workload is a program of its own"
	case under(from, "internal"):
		return under(to, from) || under(from, to), "internal libraries know nothing of each other"
	case from == "daemons":
		return under(to, "daemons"), "the registry is a list of daemons and nothing else"
	case under(from, "daemons/kit"):
		ok := under(to, "daemons/kit") || under(from, "daemons/kit/kittest") && under(to, "internal")
		return ok, "the contract knows only leaves, so that a daemon can be tested without a ring"
	case under(from, "daemons"):
		ok := under(to, "daemons/kit") || under(to, "internal")
		return ok, "a category imports the kit and libraries, never another category: what two need belongs lower"
	}
	return true, ""
}

func TestImports(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			if strings.HasSuffix(to, "test") {
				if !strings.HasSuffix(p.rel(), "test") {
					t.Errorf("%s imports %s: test packages are for tests", p.rel(), to)
				}
				continue
			}
			if ok, why := may(p.rel(), to); !ok {
				t.Errorf("%s must not import %s: %s", p.rel(), to, why)
			}
		}
	}
}

// TestImportRuleBites proves that the rule refuses what it should: a check that cannot fail is none.
func TestImportRuleBites(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{
		{"mesh", "leader"}, {"leader", "eventlog"}, {"eventlog", "mesh"}, {"internal/blob", "internal/gamedb"}, {"daemons/training", "daemons/evaluation"},
		{"daemons/core", "leader"}, {"daemons/kit", "mesh"}, {"mesh", "agent"}, {"agent/supervise", "leader"}, {"eventlog/event", "internal/blob"}, {"leader", "cmd/ringagent"},
	} {
		if ok, _ := may(c[0], c[1]); ok {
			t.Errorf("%s may import %s", c[0], c[1])
		}
	}
}

// owners lists what only one place may import, so that it can be replaced or wrapped in one place.
var owners = map[string][]string{
	"github.com/hashicorp/raft":        {"leader", "scripts/bench"}, // which measures it alone
	"github.com/hashicorp/raft-boltdb": {"leader", "scripts/bench"},
	"github.com/hashicorp/memberlist":  {"mesh"},
	"modernc.org/sqlite":               {"internal/gamedb"},
	"os/exec":                          {"internal/proc", "internal/host", "agent", "cmd", "scripts"},
	"github.com/urfave/cli":            {"cmd", "internal/connect4"},
	"testing":                          {},
}

func TestOwners(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		if strings.HasSuffix(p.rel(), "test") || p.rel() == "" {
			continue
		}
		for _, imp := range p.Imports {
			for lib, dirs := range owners {
				if !under(imp, lib) && !strings.HasPrefix(imp, lib+"/v") && imp != lib {
					continue
				}
				ok := false
				for _, d := range dirs {
					ok = ok || under(p.rel(), d)
				}
				if !ok {
					t.Errorf("%s imports %s, which only %v may", p.rel(), imp, dirs)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	t.Parallel()
	vague := map[string]bool{"util": true, "utils": true, "common": true, "helper": true, "helpers": true, "misc": true, "types": true, "manager": true}
	for _, p := range list(t) {
		if len(p.GoFiles) == 0 {
			continue
		}
		if len(p.Doc) < 40 {
			t.Errorf("%s has no package comment that says what it owns", p.ImportPath)
		}
		if vague[filepath.Base(p.ImportPath)] {
			t.Errorf("%s: a package is a noun of the domain", p.ImportPath)
		}
	}
}

// fakeTime says whether the tests of a folder run on a fake clock, where a sleep takes no time.
func fakeTime(path string) bool {
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*_test.go"))
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte("synctest.Test(")) {
			return true
		}
	}
	return false
}

// boundField are the fields that the loggers of a folder's code carry, as they are written in the source.
func boundField(path string) map[string]bool {
	return map[string]bool{
		`"node"`: true, `"daemon"`: under(path, "daemons"), `"component"`: under(path, "leader"),
	}
}

// opensWith says whether an expression begins with x.With(): what follows it is bound to a logger.
func opensWith(x ast.Expr) bool {
	call, ok := x.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	return ok && (sel.Sel.Name == "With" || opensWith(sel.X))
}

// TestHabits reads every source file for what the house forbids.
func TestHabits(t *testing.T) {
	t.Parallel()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		isTest := strings.HasSuffix(path, "_test.go")
		if n := bytes.Count(b, []byte("\n")); n > 600 && !isTest {
			t.Errorf("%s has %d lines: is there a second concept in it?", path, n)
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: func init registers behind the reader's back", path)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if field := boundField(path); !isTest && sel.Sel.Name == "Str" && len(call.Args) == 2 && !opensWith(sel.X) {
				if key, ok := call.Args[0].(*ast.BasicLit); ok && field[key.Value] {
					t.Errorf("%s: a log line with the field %s, which its logger has already: the key would be there twice", path, key.Value)
				}
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			name := x.Name + "." + sel.Sel.Name
			switch {
			case name == "time.Sleep" && isTest && !fakeTime(path):
				t.Errorf("%s: tests wait for a condition with a deadline, or under synctest; they do not sleep", path)
			case (name == "os.Exit" || strings.HasPrefix(name, "log.Fatal")) && !isTest && !strings.HasPrefix(path, "cmd/") && !strings.HasPrefix(path, "scripts/") && !strings.HasPrefix(path, "internal/proc/"):
				t.Errorf("%s: only the command line ends the process", path)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
