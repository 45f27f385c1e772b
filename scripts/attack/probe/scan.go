package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// scanPaths looks for secrets in files; tls/ and api.token are where they belong.
func scanPaths(secrets [][]byte, roots []string) error {
	files, hits := 0, 0
	for _, root := range roots {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // a file that went away meanwhile
			}
			if d.IsDir() && d.Name() == "tls" {
				return filepath.SkipDir
			}
			if !d.Type().IsRegular() || d.Name() == "api.token" {
				return nil
			}
			b, err := os.ReadFile(p)
			if err != nil {
				return nil
			}
			files++
			for i, s := range secrets {
				if bytes.Contains(b, s) {
					hits++
					fmt.Printf("secret %d in %s\n", i+1, strings.TrimPrefix(p, root))
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	fmt.Printf("%d files, %d secrets, %d hits\n", files, len(secrets), hits)
	if hits > 0 {
		return fmt.Errorf("%d hits", hits)
	}
	return nil
}
