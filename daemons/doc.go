// Package daemons is the list of all daemons, the profiles that choose among them, and the figures of a ring on one
// machine.
//
// It owns no behaviour: what a daemon does is in its category, what all have in common in kit. Nobody imports it but the
// agent and the commands that describe daemons. Everything here is a pure function; there is nothing to synchronise.
package daemons
