//go:build race

package connect4

const underRace = true
