package doctest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// direct are the modules that the root module may require itself. Each is there for
// a reason that holds for everybody who imports the root package.
var direct = []string{
	"go.opentelemetry.io/otel",       // the W3C trace context that travels with events
	"go.opentelemetry.io/otel/trace", // the span of a context
	"google.golang.org/protobuf",     // the Protobuf codec
}

// indirect are the modules that those are built with.
var indirect = []string{
	"github.com/cespare/xxhash/v2", // of otel
}

// summed are the modules that stand in go.sum besides: tests of the modules above
// need them, and they are not built.
var summed = []string{
	"github.com/go-logr/logr",
	"github.com/go-logr/stdr",
	"github.com/google/go-cmp",
	"github.com/stretchr/testify",
	"go.opentelemetry.io/auto/sdk",
	"go.opentelemetry.io/otel/log",
	"go.opentelemetry.io/otel/metric",
	"go.yaml.in/yaml/v3",
}

// TestRootModuleIsLight holds what the root module requires, and what its package
// builds, to the lists above. A team on one broker must not find another broker's
// client, a database driver or an exporter in its go.sum.
func TestRootModuleIsLight(t *testing.T) {
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
		Replace []struct{ Old struct{ Path string } }
	}
	if err := json.Unmarshal(goCommand(t, "mod", "edit", "-json"), &mod); err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		switch {
		case !r.Indirect && !slices.Contains(direct, r.Path):
			t.Errorf("go.mod requires %s, which is not on the list; a module of its own is the place for what needs it", r.Path)
		case r.Indirect && !slices.Contains(indirect, r.Path):
			t.Errorf("go.mod requires %s indirectly, which is not on the list", r.Path)
		}
	}
	for _, r := range mod.Replace {
		t.Errorf("go.mod replaces %s; go install refuses a module that does", r.Old.Path)
	}

	var built []string
	for line := range strings.Lines(string(goCommand(t, "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "."))) {
		path := strings.TrimSpace(line)
		if path != "" && path != "github.com/posthorn/posthorn" && !slices.Contains(built, path) {
			built = append(built, path)
		}
	}
	for _, path := range built {
		if !slices.Contains(direct, path) && !slices.Contains(indirect, path) {
			t.Errorf("the root package is built with %s, which is not on the list", path)
		}
	}
	sum, err := os.ReadFile(filepath.Join(root(t), "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(sum)) {
		path, _, _ := strings.Cut(line, " ")
		if !slices.Contains(slices.Concat(direct, indirect, summed), path) {
			t.Errorf("go.sum holds %s, which is not on a list", path)
		}
	}
	t.Logf("the root package is built with the standard library and %v", built)
}

// TestRootPackageHoldsNoTestCode keeps test helpers and brokers out of what
// users build.
func TestRootPackageHoldsNoTestCode(t *testing.T) {
	for line := range strings.Lines(string(goCommand(t, "list", "-deps", "."))) {
		path := strings.TrimSpace(line)
		switch {
		case path == "testing",
			strings.HasPrefix(path, "github.com/posthorn/posthorn/driver/"),
			strings.HasPrefix(path, "github.com/posthorn/posthorn/internal/leaktest"):
			t.Errorf("the root package is built with %s", path)
		}
	}
}

// goCommand runs go in the root module, without the workspace, as a user's build
// sees it.
func goCommand(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		stderr := ""
		if e, ok := err.(*exec.ExitError); ok {
			stderr = string(e.Stderr)
		}
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr)
	}
	return out
}

// root is the folder of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
