package agent

import (
	"io"
	"os"

	"github.com/mattn/go-isatty"
)

// Terminal says whether somebody looks at w now, in contrast to a file or a pipe.
func Terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// colours says whether w is to be written in colour: a file would keep the terminal's codes as rubbish.
func colours(w io.Writer) bool { return Terminal(w) && os.Getenv("NO_COLOR") == "" }
