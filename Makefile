# All that a newcomer needs is Go, make and git: `make demo` shows the whole loop, `make test` checks it.

GO      ?= go
TAGS    := hashicorpmetrics
BIN     := bin/ringagent
# What the compiler is told of where the time goes, see `make profile`. Not default.pgo: tests would be compiled for it, too.
PROFILE := cmd/ringagent/load.pgo
GOFLAGS_BUILD := -trimpath -tags $(TAGS) -ldflags '-s -w' -pgo=$(PROFILE)
export CGO_ENABLED ?= 0

.PHONY: build demo test soak attack lint bench profile cross fmt clean

build: $(BIN)

# The Go tool knows best what is out of date.
.PHONY: $(BIN)
$(BIN):
	$(GO) build $(GOFLAGS_BUILD) -o $(BIN) ./cmd/ringagent

demo: build
	scripts/demo.sh $(BIN)

# SQLite's C, translated to Go, keeps its data in memory that it maps itself and that the race detector does not watch.
# Instrumented it shows nothing more and takes five times as long, in every test with a database. What calls it stays so.
WATCHED := -race $(foreach p,modernc.org/sqlite/lib modernc.org/libc/... modernc.org/memory,-gcflags=$(p)=-race=false)

# The race detector needs cgo and with it a C compiler; without one the tests still run, and say so.
test:
	@if command -v $${CC:-cc} >/dev/null 2>&1; then \
		CGO_ENABLED=1 $(GO) test $(WATCHED) -tags $(TAGS) -timeout 10m ./... && \
		CGO_ENABLED=1 $(GO) test -tags $(TAGS) -run 'TestAnyFlipped|TestNumbersOfPositions' ./eventlog ./internal/connect4; \
	else \
		echo 'no C compiler: testing without the race detector'; \
		$(GO) test -tags $(TAGS) -timeout 10m ./...; \
	fi

soak: build
	scripts/soak.sh $(BIN)

# Strangers, newcomers, liars, full disks and flipped bytes against real agents; part of soak.
attack: build
	ROUNDS=0 SCENARIOS=attack scripts/soak.sh $(BIN)

bench: build
	scripts/bench.sh $(BIN)

# Takes the profile anew, from three voters under load.
profile: build
	rm -rf bin/profiles
	scripts/bench.sh $(BIN) -only throughput -kind 'committed, 64×16' -for 30s -profiles bin/profiles
	$(GO) tool pprof -proto -output $(PROFILE) bin/profiles/*.cpu

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'run: make fmt'; exit 1; }
	$(GO) vet -tags $(TAGS) ./...
	$(GO) mod verify

cross:
	GOOS=linux  GOARCH=amd64 $(GO) build $(GOFLAGS_BUILD) -o bin/ringagent-linux-amd64  ./cmd/ringagent
	GOOS=linux  GOARCH=arm64 $(GO) build $(GOFLAGS_BUILD) -o bin/ringagent-linux-arm64  ./cmd/ringagent
	GOOS=darwin GOARCH=arm64 $(GO) build $(GOFLAGS_BUILD) -o bin/ringagent-darwin-arm64 ./cmd/ringagent

fmt:
	gofmt -w .

clean:
	rm -rf bin ringagent-dev
