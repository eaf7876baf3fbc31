package guest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/cavaliergopher/cpio"
)

const agentPackage = "github.com/virtiofsd-go/virtiofsd-go/integration/guest/agent"

// buildInitramfs writes an initramfs with the agent as /init and the modules in /modules, named in loading order.
func buildInitramfs(dir string, modules []string) (path string, err error) {
	agent := filepath.Join(dir, "agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", agent, agentPackage)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the guest's agent: %w\n%s", err, out)
	}
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	add := func(name, source string, mode cpio.FileMode) {
		if err != nil {
			return
		}
		var content []byte
		if source != "" {
			if content, err = os.ReadFile(source); err != nil {
				return
			}
		}
		if err = w.WriteHeader(&cpio.Header{Name: name, Mode: mode, Links: 1, Size: int64(len(content))}); err == nil {
			_, err = io.Copy(w, bytes.NewReader(content))
		}
	}
	add("dev", "", cpio.TypeDir|0o755)
	add("modules", "", cpio.TypeDir|0o755)
	for i, module := range modules {
		add(fmt.Sprintf("modules/%02d-%s", i, filepath.Base(module)), module, cpio.TypeReg|0o644)
	}
	add("init", agent, cpio.TypeReg|0o755)
	if err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	path = filepath.Join(dir, "initramfs")
	return path, os.WriteFile(path, archive.Bytes(), 0o644)
}
