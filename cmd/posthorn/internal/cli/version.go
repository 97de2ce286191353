package cli

import (
	"cmp"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this program and of what it is made with",
		Long:    "Print the version of this program, and of Go and the NATS server that it was built with.",
		Example: "  posthorn version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := versions()
			if a.json {
				return a.line(v)
			}
			a.say("posthorn %s%s\n%s\nnats-server %s", v.Version, v.commit(), v.Go, v.Server)
			return nil
		},
	}
}

type versionJSON struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	Server  string `json:"nats_server"`
}

func (v versionJSON) commit() string {
	if v.Commit == "" {
		return ""
	}
	return " (" + v.Commit + ")"
}

// versions reads what the build has noted.
func versions() versionJSON {
	v := versionJSON{Version: "unknown", Go: "unknown", Server: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version, v.Go = cmp.Or(info.Main.Version, "unknown"), info.GoVersion
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value[:min(len(s.Value), 12)]
		}
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/nats-io/nats-server/v2" {
			v.Server = m.Version
		}
	}
	return v
}
