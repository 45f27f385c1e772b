package daemons

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"context"

	"github.com/ringagent/ringagent/daemons/evaluation"
	"github.com/ringagent/ringagent/daemons/kit"
	"github.com/ringagent/ringagent/daemons/kit/kittest"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
	"github.com/ringagent/ringagent/internal/ring"
)

func TestSpecsAreSound(t *testing.T) {
	t.Parallel()
	upper := regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$`)
	categories := []string{"core", "datasync", "training", "evaluation", "cluster", "quality", "resources", "integrity", "backup", "providers"}
	seen := map[string]bool{}
	for _, s := range All() {
		if !upper.MatchString(s.Name) || seen[s.Name] {
			t.Errorf("name %q is used twice or is not upper snake case", s.Name)
		}
		seen[s.Name] = true
		if !strings.HasSuffix(s.Doc, ".") || strings.Contains(s.Doc, "\n") {
			t.Errorf("%s: doc %q is not one sentence", s.Name, s.Doc)
		}
		if !slices.Contains(categories, s.Category) {
			t.Errorf("%s: category %q", s.Name, s.Category)
		}
		if s.Scope != kit.ScopeNode && s.Scope != kit.ScopeCluster {
			t.Errorf("%s has no scope", s.Name)
		}
		if s.Critical && s.Scope == kit.ScopeCluster {
			t.Errorf("%s: a node's readiness cannot depend on a singleton", s.Name)
		}
		if s.AliasOf != "" {
			if target, ok := ByName(s.AliasOf); !ok || target.AliasOf != "" || s.New != nil {
				t.Errorf("%s: alias of %q", s.Name, s.AliasOf)
			}
			continue
		}
		if s.New == nil || s.Every <= 0 {
			t.Errorf("%s has no New or no period", s.Name)
		}
		for _, d := range s.DependsOn {
			dep, ok := ByName(d)
			if !ok {
				t.Errorf("%s depends on %s, which does not exist", s.Name, d)
			}
			// A node-scope dependency must be able to run wherever its dependent does.
			if dep.Scope == kit.ScopeNode && len(dep.Classes) > 0 && !slices.Equal(dep.Classes, s.Classes) {
				t.Errorf("%s depends on %s, which does not run everywhere", s.Name, d)
			}
		}
		if err := s.CheckSettings(nil); err != nil {
			t.Errorf("defaults: %v", err)
		}
		if err := s.CheckSettings(json.RawMessage(`{"every":"7s","enabled":false}`)); err != nil {
			t.Errorf("common keys: %v", err)
		}
		if err := s.CheckSettings(json.RawMessage(`{"evry":"7s"}`)); err == nil || !strings.Contains(err.Error(), "evry") {
			t.Errorf("%s: an unknown key is not named: %v", s.Name, err)
		}
	}
	for _, s := range All() {
		if cyclic(s.Name, nil) {
			t.Errorf("%s depends on itself", s.Name)
		}
	}
}

func cyclic(name string, path []string) bool {
	if slices.Contains(path, name) {
		return true
	}
	s, _ := ByName(name)
	return slices.ContainsFunc(s.DependsOn, func(d string) bool { return cyclic(d, append(path, name)) })
}

// What a daemon emits is in the catalogue and it is among the type's owners; what it reads somebody states.
func TestEventsHaveTwoEnds(t *testing.T) {
	t.Parallel()
	emitted := map[event.Type]bool{}
	for _, s := range All() {
		for _, e := range s.Emits {
			def, ok := event.Catalogue().Lookup(string(e))
			switch {
			case !ok:
				t.Errorf("%s emits %s, which is not registered", s.Name, e)
			case def.Source == event.SourceDaemon && !slices.Contains(def.Owners, event.Publisher(s.Name)):
				t.Errorf("%s emits %s, which belongs to %v", s.Name, e, def.Owners)
			}
			emitted[e] = true
		}
	}
	for _, s := range All() {
		for _, e := range s.Reads {
			if def, ok := event.Catalogue().Lookup(string(e)); !ok || def.Source == event.SourceDaemon && !emitted[e] {
				t.Errorf("%s reads %s, which nobody states", s.Name, e)
			}
		}
	}
	for _, def := range event.Catalogue().All() {
		for _, owner := range def.Owners {
			if s, ok := ByName(string(owner)); ok && def.Source == event.SourceDaemon && !slices.Contains(s.Emits, def.Type) {
				t.Logf("%s owns %s and does not emit it", s.Name, def.Type)
			}
		}
	}
}

func TestProfilesAreClosed(t *testing.T) {
	t.Parallel()
	for _, name := range Profiles() {
		for _, class := range []id.Class{id.Core, id.Edge} {
			specs, err := Profile(name, class)
			if err != nil || len(specs) == 0 {
				t.Errorf("%s/%s: %d daemons, %v", name, class, len(specs), err)
			}
			for _, s := range specs {
				for _, d := range s.DependsOn {
					dep, _ := ByName(d)
					if dep.Scope == kit.ScopeNode && !slices.ContainsFunc(specs, func(o kit.Spec) bool { return o.Name == d }) {
						t.Errorf("profile %s on %s nodes has %s but not %s", name, class, s.Name, d)
					}
				}
			}
		}
	}
	core, _ := Profile("", id.Core)
	for _, s := range All() {
		if s.Scope == kit.ScopeCluster && !slices.ContainsFunc(core, func(o kit.Spec) bool { return o.Name == s.Name }) {
			t.Errorf("no core node would run %s", s.Name)
		}
	}
	if _, err := Profile("huge", id.Core); err == nil {
		t.Error("an unknown profile is taken")
	}
}

func TestDevOverlayIsValid(t *testing.T) {
	t.Parallel()
	for name, section := range DevOverlay() {
		s, ok := ByName(name)
		if !ok {
			t.Errorf("overlay of %s, which does not exist", name)
			continue
		}
		if err := s.CheckSettings(section); err != nil {
			t.Error(err)
		}
	}
}

// Whoever writes a daemon and forgets its line in All is told: no function of a category that makes a Spec is missing.
func TestNoDaemonIsForgotten(t *testing.T) {
	t.Parallel()
	listed, err := parser.ParseFile(token.NewFileSet(), "registry.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	called := map[string]bool{}
	ast.Inspect(listed, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
				if pkg, ok := sel.X.(*ast.Ident); ok {
					called[pkg.Name+"."+sel.Sel.Name] = true
				}
			}
		}
		return true
	})
	files, err := filepath.Glob("*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !fn.Name.IsExported() || fn.Type.Params.NumFields() > 0 || fn.Type.Results.NumFields() != 1 {
				continue
			}
			if sel, ok := fn.Type.Results.List[0].Type.(*ast.SelectorExpr); ok && sel.Sel.Name == "Spec" && !called[f.Name.Name+"."+fn.Name.Name] {
				t.Errorf("%s.%s is not in All", f.Name.Name, fn.Name.Name)
			}
		}
	}
}

func TestEveryDaemonEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, s := range All() {
		if s.AliasOf != "" {
			continue
		}
		for _, quorum := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				r := kittest.New(t, c4)
				n := r.AddNode("n1", id.Core, ring.Slots{CPU: 1})
				r.Quorum(quorum)
				d, err := s.New(n.Env(s, ""))
				if err != nil {
					t.Fatalf("%s: %v", s.Name, err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				end := make(chan error, 1)
				go func() { end <- d.Run(ctx) }()
				time.Sleep(5 * time.Minute)
				if n.Progressed(s.Name) == 0 {
					t.Errorf("%s makes no progress (quorum %v)", s.Name, quorum)
				}
				cancel()
				select {
				case err := <-end:
					if err != nil {
						t.Errorf("%s: %v", s.Name, err)
					}
				case <-time.After(time.Second):
					t.Errorf("%s does not end", s.Name)
				}
			})
		}
	}
}

// Before there is a ring nobody can be asked for the daemons there are, so the error lists them.
func TestCheckSectionListsTheDaemons(t *testing.T) {
	t.Parallel()
	err := CheckSection("TRAINING_TRIGER", nil)
	if err == nil || !strings.Contains(err.Error(), "TRAINING_TRIGGER") || strings.Contains(err.Error(), "HEALTH_CHECK") {
		t.Errorf("error %v should list the daemons, but no deprecated name", err)
	}
}

// A duration below zero is refused, whatever the daemon, and named.
func TestCheckSectionRefusesNegativeDurations(t *testing.T) {
	t.Parallel()
	for _, s := range All() {
		if s.Settings == nil {
			continue
		}
		v := reflect.ValueOf(s.Settings)
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			if _, ok := v.Field(i).Interface().(kit.Duration); !ok {
				continue
			}
			if err := CheckSection(s.Name, json.RawMessage(`{"`+name+`":"-5m"}`)); err == nil {
				t.Errorf("%s.%s: -5m was taken", s.Name, name)
			}
		}
	}
	if err := CheckSection("TRAINING_TRIGGER", json.RawMessage(`{"cooldown":"-5m"}`)); err == nil || !strings.Contains(err.Error(), "cooldown -5m0s") {
		t.Errorf("error %v should name the key", err)
	}
}

// Opponents that the workload's command line, or a promotion, cannot make sense of are refused when they are written; a daemon goes on
// with those that were taken before.
func TestOpponentsAreChecked(t *testing.T) {
	t.Parallel()
	spec, _ := ByName("EVALUATION")
	defaults := spec.Settings.(evaluation.Settings)
	for list, want := range map[string]string{
		`["random","heuristic"]`: "", `["random","heuristic","minimax","depth-8.b_2"]`: "",
		`[]`: "at least one", `["random","heuristic","a,b"]`: "a,b", `["random","heuristic",""]`: `""`, `["random","heuristic","random"]`: "twice",
		`["random"]`: "heuristic is missing", `["heuristic","minimax"]`: "random is missing",
	} {
		section := json.RawMessage(`{"opponents":` + list + `}`)
		err := CheckSection("EVALUATION", section)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", list, err, want)
		}
		if _, err := kit.Decode(section, defaults); err != nil && list != "[]" {
			t.Errorf("%s does not start: %v", list, err)
		}
	}
}

// TestSettingsAreDocumented: whoever writes a section has nothing but the page to go by.
func TestSettingsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "docs", "settings.md"))
	if err != nil {
		t.Fatal(err)
	}
	about, current := map[string]string{}, []string{}
	for _, line := range strings.Split(string(page), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		if names := strings.TrimSpace(cells[1]); names != "" {
			current = strings.Split(names, ", ")
		}
		for _, name := range current {
			about[name] += cells[2]
		}
	}
	for _, s := range All() {
		if !strings.Contains(string(page), s.Name) && s.AliasOf == "" {
			t.Errorf("%s is not on the page", s.Name)
		}
		if s.Settings == nil {
			continue
		}
		b, err := json.Marshal(s.Settings)
		if err != nil {
			t.Fatal(err)
		}
		keys := map[string]any{}
		if err := json.Unmarshal(b, &keys); err != nil {
			t.Fatal(err)
		}
		for key := range keys {
			if !strings.Contains(about[s.Name], "`"+key+"`") {
				t.Errorf("%s: key %s is not on the page", s.Name, key)
			}
		}
	}
}
