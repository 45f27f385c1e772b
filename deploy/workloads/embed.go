// Package workloads holds the workload files that come with the binary. It owns the files; what they mean is package
// workload's.
package workloads

import _ "embed"

// Connect4 is the built-in workload's file, as text.
//
//go:embed connect4.yaml
var Connect4 string
