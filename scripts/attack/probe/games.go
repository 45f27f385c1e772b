package main

import (
	"context"

	"github.com/ringagent/ringagent/internal/gamedb"
)

// emptyDB PATH makes a sound database of games that holds none.
func emptyDB(a []string) error {
	w, err := gamedb.Create(context.Background(), a[0])
	if err != nil {
		return err
	}
	return w.Close()
}
