package proc

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const markName = "RINGAGENT_JOB"

// inherited says whether a variable of the agent's environment is passed on. The list is short on purpose: tokens, cloud
// keys and proxies with passwords live in environments.
func inherited(name string) bool {
	switch name {
	case "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
		"VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "SSL_CERT_FILE", "SSL_CERT_DIR":
		return true
	}
	for _, prefix := range []string{"LC_", "CUDA_", "NVIDIA_", "NCCL_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// withHome adds the user's home to an environment without one, as a service of the system has it: scripts mean it by $HOME, and
// what they load is kept there.
func withHome(environ []string) []string {
	if slices.ContainsFunc(environ, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		return environ
	}
	if u, err := user.Current(); err == nil && u.HomeDir != "" {
		return append(slices.Clip(environ), "HOME="+u.HomeDir)
	}
	return environ
}

// environment is the command's whole environment: the allow-list, then the job's own, then what the owner granted.
func environment(agent []string, job Job, tmp, mark string) []string {
	vars := map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin"}
	set := func(entry string) {
		if name, value, ok := strings.Cut(entry, "="); ok && name != "" {
			vars[name] = value
		}
	}
	for _, entry := range agent {
		if name, _, _ := strings.Cut(entry, "="); inherited(name) {
			set(entry)
		}
	}
	vars["TMPDIR"] = tmp
	for _, entry := range job.Env {
		set(entry)
	}
	if job.CPUs > 0 {
		for _, name := range []string{"GOMAXPROCS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"} {
			vars[name] = strconv.FormatInt(job.CPUs, 10)
		}
	}
	if job.GPUs != nil {
		ids := make([]string, len(job.GPUs))
		for i, g := range job.GPUs {
			ids[i] = strconv.Itoa(g)
		}
		vars["CUDA_VISIBLE_DEVICES"] = strings.Join(ids, ",")
	}
	vars[markName] = mark
	list := make([]string, 0, len(vars))
	for name, value := range vars {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}

// notRunnable is why a command cannot be executed.
type notRunnable struct {
	reason Reason
	text   string
}

func (e *notRunnable) Error() string { return e.text }

// lookPath finds the program in the command's own PATH, relative to its own working directory.
func lookPath(program, dir string, env []string) (string, error) {
	if strings.Contains(program, "/") {
		if !filepath.IsAbs(program) {
			program = filepath.Join(dir, program)
		}
		if err := runnable(program); err != nil {
			return "", err
		}
		return program, nil
	}
	var found error = &notRunnable{NotFound, fmt.Sprintf("no program %q in PATH", program)}
	for _, entry := range env {
		list, ok := strings.CutPrefix(entry, "PATH=")
		if !ok {
			continue
		}
		for _, d := range filepath.SplitList(list) {
			if !filepath.IsAbs(d) {
				continue // a relative PATH entry would run whatever lies in the output directory
			}
			path := filepath.Join(d, program)
			err := runnable(path)
			if err == nil {
				return path, nil
			}
			if err.reason == NotExecutable {
				found = err
			}
		}
	}
	return "", found
}

func runnable(path string) *notRunnable {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return &notRunnable{NotFound, fmt.Sprintf("no program %s", path)}
	case info.IsDir():
		return &notRunnable{NotExecutable, fmt.Sprintf("%s is a directory", path)}
	case info.Mode()&0o111 == 0:
		return &notRunnable{NotExecutable, fmt.Sprintf("%s is not executable", path)}
	}
	return nil
}
