package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ringagent/ringagent/agent/api"
	"github.com/ringagent/ringagent/eventlog/event"
	"github.com/ringagent/ringagent/internal/id"
)

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name:        "events",
		Usage:       "the replicated event log: tail, publish, types, verify",
		Subcommands: []*cli.Command{tailCommand(), publishCommand(), typesCommand(), verifyEventsCommand()},
	}
}

func tailCommand() *cli.Command {
	return &cli.Command{
		Name:  "tail",
		Usage: "print the log as any node sees it; without -f it ends at the newest event",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what comes"},
			&cli.Uint64Flag{Name: "after", Usage: "begin behind event number `SEQ`"},
			&cli.DurationFlag{Name: "since", Usage: "begin `D` ago, like 10m"},
			&cli.BoolFlag{Name: "from-start", Usage: "begin at the oldest event kept"},
			&cli.StringFlag{Name: "type", Usage: "only types that match `GLOB`, like TRAINING_*"},
			&cli.StringFlag{Name: "node", Usage: "read the replica of `NODE`"},
			&cli.StringFlag{Name: "origin", Usage: "only events that `NODE` stated"},
			&cli.Uint64Flag{Name: "limit", Usage: "end after `N` events"},
		},
		Action: tail,
	}
}

func tail(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	starts := 0
	for _, f := range []string{"after", "since", "from-start"} {
		if c.IsSet(f) {
			starts++
		}
	}
	if starts > 1 {
		return usage("events tail: choose one of --after, --since and --from-start")
	}
	if _, err := path.Match(c.String("type"), ""); err != nil {
		return usage("--type %q: %v", c.String("type"), err)
	}
	q := url.Values{}
	switch {
	case c.IsSet("after"):
		q.Set("after", strconv.FormatUint(c.Uint64("after"), 10))
	case c.IsSet("since"):
		if c.Duration("since") <= 0 {
			return usage("--since %s: want a positive duration like 10m", c.Duration("since"))
		}
		q.Set("since", time.Now().Add(-c.Duration("since")).UTC().Format(time.RFC3339Nano))
	case c.Bool("from-start") || !c.Bool("follow"):
		q.Set("after", "0")
	}
	if c.Bool("follow") {
		q.Set("follow", "1")
	}
	for _, f := range []string{"type", "node", "origin"} {
		if v := c.String(f); v != "" {
			q.Set(f, v)
		}
	}
	if n := c.Uint64("limit"); n > 0 {
		q.Set("limit", strconv.FormatUint(n, 10))
	}
	err := stream(c, q)
	switch follows := c.Bool("follow"); {
	case follows && errors.Is(err, context.Canceled):
		return nil // a follower that is asked to stop has done its work
	case follows && err == nil && c.Context.Err() == nil && c.Uint64("limit") == 0:
		return api.Errorf(api.CodeUnreachable, "the agent has ended the stream").WithHint("it was stopped; go on with --after and the last seq once it is back")
	}
	return err
}

func stream(c *cli.Context, q url.Values) error {
	body, err := client(c).Stream(c.Context, "/api/v1/events", q)
	if err != nil {
		return err
	}
	defer body.Close()
	var names map[id.Node]string
	if !c.Bool("json") {
		names = nodeNames(c)
	}
	return copyLines(c.App.Writer, body, c.Bool("json"), names)
}

// nodeNames are the names that people know nodes by; where they cannot be had, or for a node that joins later, ids must do.
func nodeNames(c *cli.Context) map[id.Node]string {
	ctx, cancel := ask(c)
	defer cancel()
	var ms api.Members
	if err := client(c).Get(ctx, "/api/v1/members", nil, &ms); err != nil {
		return nil
	}
	out := map[id.Node]string{}
	for _, m := range ms.Members {
		out[m.ID] = m.Name
	}
	return out
}

// copyLines passes JSON lines on as they come, or prints each for people, with the names of nodes.
func copyLines(w io.Writer, r io.Reader, asJSON bool, names map[id.Node]string) error {
	in := bufio.NewReaderSize(r, 128<<10)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 && (err == nil || errors.Is(err, io.EOF)) { // half a line is nobody's
			if bad := streamError(line); bad != nil {
				return bad
			}
			if werr := writeLine(w, line, asJSON, names); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// streamError finds an error that came after the stream had begun.
func streamError(line []byte) error {
	if !strings.HasPrefix(string(line), `{"error":`) {
		return nil
	}
	var env api.Envelope
	if json.Unmarshal(line, &env) == nil && env.Error != nil {
		return env.Error
	}
	return nil
}

func writeLine(w io.Writer, line []byte, asJSON bool, names map[id.Node]string) error {
	if asJSON {
		_, err := w.Write(line)
		return err
	}
	var gap struct {
		Compacted *api.Compacted `json:"compacted"`
		event.Line
	}
	if err := json.Unmarshal(line, &gap); err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	if gap.Compacted != nil {
		_, err := fmt.Fprintf(w, "-- events %d to %d are compacted; the oldest kept is %d\n", gap.Compacted.From, gap.Compacted.To, gap.Compacted.Oldest)
		return err
	}
	e := gap.Line
	by := e.Daemon
	if e.Epoch != 0 {
		by += fmt.Sprintf("@%d", e.Epoch)
	}
	mark := ""
	if e.Stale {
		mark = " STALE"
	}
	node := string(e.Node)
	if name, ok := names[e.Node]; ok {
		node = name
	}
	if by == "" {
		by = "-"
	}
	_, err := fmt.Fprintf(w, "%7d  %s  %-28s %-8s  %s%s  %s\n", e.Seq, e.Time.Local().Format("2006-01-02 15:04:05.000"), e.Type, printable(node), by, mark, printable(string(e.Payload)))
	return err
}

func publishCommand() *cli.Command {
	return &cli.Command{
		Name:      "publish",
		Usage:     "state an event; it is durable on this node when the command ends",
		ArgsUsage: "TYPE",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "payload", Value: "{}", Usage: "the payload as `JSON`, @FILE, or - for standard input"},
			&cli.BoolFlag{Name: "wait", Usage: "wait for its place in the log and print its seq"},
			&cli.StringFlag{Name: "key", Usage: "the same `KEY` again gives the same event"},
			&cli.StringFlag{Name: "cause", Usage: "id of the event that led to this one"},
		},
		Action: func(c *cli.Context) error {
			typ, err := oneArg(c, "TYPE")
			if err != nil {
				return err
			}
			payload, err := readPayload(c.String("payload"), c.App.Reader)
			if err != nil {
				return err
			}
			ctx, cancel := ask(c)
			defer cancel()
			var out api.Published
			in := api.Publish{Type: typ, Payload: payload, Wait: c.Bool("wait"), Key: c.String("key"), Cause: c.String("cause")}
			if err := client(c).Post(ctx, "/api/v1/events", in, &out); err != nil {
				return err
			}
			return show(c, out, func(w io.Writer, p api.Published) {
				if p.Seq != nil {
					fmt.Fprintf(w, "%s at %d\n", p.ID, *p.Seq)
					return
				}
				fmt.Fprintln(w, p.ID)
			})
		},
	}
}

func readPayload(arg string, stdin io.Reader) (json.RawMessage, error) {
	raw := []byte(arg)
	var err error
	switch {
	case arg == "-":
		raw, err = io.ReadAll(io.LimitReader(stdin, 1<<20))
	case strings.HasPrefix(arg, "@"):
		raw, err = os.ReadFile(arg[1:])
	}
	if err != nil {
		return nil, usage("--payload: %v", err)
	}
	var probe map[string]json.RawMessage
	if err := json.Unmarshal(raw, &probe); err != nil {
		return nil, usage("--payload: want a JSON object: %v", err)
	}
	return raw, nil
}

func typesCommand() *cli.Command {
	return &cli.Command{
		Name:      "types",
		Usage:     "the catalogue of event types, or one type with its fields",
		ArgsUsage: "[TYPE]",
		Action: func(c *cli.Context) error {
			defs := event.Catalogue().All()
			if c.NArg() > 1 {
				return usage("events types takes at most one TYPE")
			}
			if c.NArg() == 1 {
				d, ok := event.Catalogue().Lookup(c.Args().First())
				if !ok {
					return api.Errorf(api.CodeNotFound, "no event type %q", c.Args().First()).WithHint("list them with: ringagent events types")
				}
				defs = []event.Definition{d}
			}
			return show(c, map[string]any{"types": defs}, func(w io.Writer, _ map[string]any) { printTypes(w, defs, c.NArg() == 1) })
		},
	}
}

func printTypes(w io.Writer, defs []event.Definition, fields bool) {
	if !fields {
		t := newTable(w, "TYPE", "SOURCE", "DOC")
		for _, d := range defs {
			t.row(d.Type, d.Source, d.Doc)
		}
		t.flush()
		return
	}
	d := defs[0]
	fmt.Fprintf(w, "%s (wire name %s, source %s)\n%s\n\n", d.Type, d.Wire, d.Source, d.Doc)
	t := newTable(w, "FIELD", "TYPE", "REQUIRED", "UNIT")
	for _, f := range d.Fields {
		t.row(f.Name, f.Type, f.Required, f.Unit)
	}
	t.flush()
}

func verifyEventsCommand() *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "recompute the log's hash chain and compare replicas",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "all-nodes", Usage: "on every node that belongs to the ring, not only this one"}},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			q := url.Values{}
			if c.Bool("all-nodes") {
				q.Set("all", "true")
			}
			ctx, cancel := askLong(c, verifyLimit)
			defer cancel()
			stop := progress(c, noMore)
			var v api.Verify
			err := client(c).Get(ctx, "/api/v1/events/verify", q, &v)
			if stop(); err != nil {
				return err
			}
			if err := show(c, v, printVerify); err != nil {
				return err
			}
			return verdictOn(v)
		},
	}
}

// verdictOn is the error of a verification: a replica that is wrong counts for more than those of which nothing is known.
func verdictOn(v api.Verify) error {
	var silent []string
	for _, n := range v.Nodes {
		switch {
		case n.OK == nil:
			silent = append(silent, n.Node+" ("+n.Error+")")
		case *n.OK:
		case n.FirstBad != nil:
			return api.Errorf(api.CodeFailed, "the replica of %s is wrong from seq %d on: %s", n.Node, *n.FirstBad, n.Error)
		default:
			return api.Errorf(api.CodeFailed, "the replica of %s could not be verified: %s", n.Node, n.Error)
		}
	}
	if len(silent) > 0 {
		return api.Errorf(api.CodePartial, "nothing is known of the replica of %s", strings.Join(silent, ", ")).
			WithHint("those that are shown as ok agree; a machine that is gone for good: ringagent force-leave NODE")
	}
	if v.OK == nil || !*v.OK {
		return api.Errorf(api.CodeFailed, "replicas differ")
	}
	return nil
}

func printVerify(w io.Writer, v api.Verify) {
	t := newTable(w, "NODE", "OK", "OLDEST", "LAST", "HASH", "NOTE")
	for _, n := range v.Nodes {
		ok := deref(n.OK)
		if ok == "" {
			ok = "unknown"
		}
		t.row(n.Node, ok, deref(n.Oldest), deref(n.LastSeq), short(deref(n.Hash)), n.Error)
	}
	t.flush()
}
