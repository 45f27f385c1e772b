// Package config reads what an operator writes down: the machine's config.yaml and the ring's settings file.
//
// It owns the files' keys, their defaults, their validation, and where each effective value came from. It starts nothing
// and knows no daemon: a daemon's section stays raw here and is checked by a function that the caller passes in. Every
// error names the file, the line or the field, and the mend. Values are plain data; nothing here is shared or concurrent.
package config
