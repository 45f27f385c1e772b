// Command soak is what soak.sh needs beyond a shell: publishers at the agents' HTTP API, and reading games out of the files
// of nodes, dead ones too.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	verbs := map[string]func(context.Context, []string) error{"publish": publish, "finished": finished, "missing": missing, "count": count, "readback": readback}
	err := errors.New("usage: soak publish|finished|count|missing|readback …")
	if len(os.Args) > 1 && verbs[os.Args[1]] != nil {
		err = verbs[os.Args[1]](ctx, os.Args[2:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}
