package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestPageIsUpToDate(t *testing.T) {
	got, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "..", "docs", "cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, Page()) {
		t.Error("docs/cli.md is not what the commands say; run: make generate")
	}
}
