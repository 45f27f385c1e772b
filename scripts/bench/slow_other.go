//go:build !linux

package main

import (
	"context"
	"errors"
	"time"
)

func slowly(context.Context, string, time.Duration, []string) error {
	return errors.New("-sync needs Linux")
}

func runSlowed(string, int, []string) error { return errors.New("-sync needs Linux") }
