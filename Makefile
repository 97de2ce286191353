# make help lists the targets. All of them need Go alone.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# A relative DATA is relative to this folder.
DATA ?=
# PROCESSES=1 runs each of the shop's services in a process of its own, and the broker
# too. BROKER, with it, is serve (posthorn serve, the default) or nats (a NATS server).
PROCESSES ?=
BROKER ?=
# Of make bench: ROW and ROUNDS choose rows and rounds, DIR a disk; QUICK=1, LONG=1,
# CHECK=1 and STORE=1 are told in docs/benchmarks.md.
ROW ?=
ROUNDS ?=
DIR ?=
QUICK ?=
LONG ?=
CHECK ?=
STORE ?=
BENCH_FLAGS = $(if $(ROW),-row '$(value ROW)') $(if $(ROUNDS),-rounds $(ROUNDS)) $(if $(DIR),-dir '$(abspath $(DIR))') \
	$(if $(QUICK),-quick=$(QUICK)) $(if $(LONG),-long=$(LONG)) $(if $(CHECK),-check=$(CHECK)) $(if $(STORE),-store=$(STORE))
# How long make fuzz runs each fuzz test.
FUZZTIME ?= 1m
# Of make soak: how many SEEDS, and ONLY jobs whose names match; FUZZTIME counts here, too.
SEEDS ?= 10
ONLY ?=
# Further flags for go test, such as ARGS='-run TestDrain -v'.
ARGS ?=

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

.PHONY: demo
demo: ## run the shop and compare its totals with the file's (DATA=path; PROCESSES=1 and BROKER=nats: see examples/shop)
	@DATA='$(DATA)' PROCESSES='$(PROCESSES)' BROKER='$(BROKER)' scripts/demo

.PHONY: test
test: ## run every test of every module with the race detector, fuzz a little, and say what was left out
	@POSTHORN_DOCS=run POSTHORN_MATRIX=run POSTHORN_FUZZ=5s go run ./internal/cmd/testall -race -count=1 -timeout=30m $(ARGS)

.PHONY: fuzz
fuzz: ## run each fuzz test for FUZZTIME (1m); what fails is kept in the package's testdata/fuzz, as a test
	@go run ./internal/cmd/testall fuzz '$(FUZZTIME)'

.PHONY: soak
soak: ## run what draws at random with many SEEDS (10), and fuzz, for hours; write docs/soak.md (ONLY=power: one job)
	@go run ./internal/cmd/soak -seeds '$(SEEDS)' -only '$(value ONLY)' -fuzz '$(FUZZTIME)'

.PHONY: bench
bench: ## measure beside the raw client and Watermill, and write docs/benchmarks.md (QUICK=1, ROW=name, CHECK=1, STORE=1: see there)
	@cd bench && go build -o ../.build/bench/bench . && exec ../.build/bench/bench $(BENCH_FLAGS)

.PHONY: lint
lint: ## check style, vet, staticcheck, tidiness and generated files in every module
	@scripts/lint

.PHONY: tidy
tidy: ## tidy the go.mod and go.sum of every module
	@scripts/each-module go mod tidy

.PHONY: generate
generate: ## write generated files anew
	@scripts/each-module go generate ./...
