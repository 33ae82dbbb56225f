# The only door. `make` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

TOOLS := target/tools
# Where a test that could not run writes its name and reason; read by tests/summary.sh.
export PARALLAX_SKIPPED := $(CURDIR)/target/skipped.txt
TEST_FEATURES := --features vdi-core/sim,fuzz-targets/front-end

.PHONY: help
help: ## List the targets
	@echo "Parallax. From a fresh Debian 12 machine with Rust >= 1.89:  make demo   or   make test"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install what is missing: Debian packages, cargo-deny, guest image (first time about 6 min)
	@setup/rust.sh
	@setup/apt.sh
	@setup/tools.sh $(TOOLS)
	@if [ -x images/setup.sh ]; then images/setup.sh; fi

.PHONY: check
check: ## Format, clippy, licences and sources, tidy (no network needed after setup)
	@setup/rust.sh
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(TEST_FEATURES) -- -D warnings
	@setup/tools.sh $(TOOLS)
	$(TOOLS)/bin/cargo-deny --workspace --all-features --offline check bans licenses sources
	@$(MAKE) tidy

.PHONY: tidy
tidy: ## Import table, paths in documents, unsafe list, file names; prints the largest files and functions
	cargo test --quiet -p parallax-tests --test tidy -- --nocapture --test-threads=1

.PHONY: test
test: setup check ## Everything: set-up, check, unit, property, simulation slice, sockets, guests (30 min at most)
	@mkdir -p target && rm -f "$$PARALLAX_SKIPPED" && touch "$$PARALLAX_SKIPPED"
	cargo build --workspace --bins $(TEST_FEATURES)
	set +e; cargo test --workspace $(TEST_FEATURES) --no-fail-fast 2>&1 | tee target/test.log; status=$${PIPESTATUS[0]}; tests/summary.sh target/test.log "$$PARALLAX_SKIPPED" $$status

.PHONY: demo
demo: setup ## The main job, told as it happens: guests on snapshotted, cloned disks, a killed daemon (5 min after the build)
	cargo build --release --workspace --bins
	target/release/qemu-harness demo

.PHONY: sim
sim: ## Simulated worlds with crashes until CYCLES are done (SEED=1 CYCLES=10000 JOBS=2; FROM=n goes on after an interruption)
	cargo run --release -p vdi-core --features sim --example sim

.PHONY: exhaustive
exhaustive: ## Every sequence of three operations or fewer, crashed at every write (FROM=n goes on after an interruption; JOBS=2 COUNT=n)
	cargo run --release -p vdi-core --features sim --example exhaustive

.PHONY: kills
kills: ## Daemons killed under load: nothing lost, doubled or stuck (KILLS=2000 SEED=1); the ledger gets a row
	cargo build -p vhost-parallax --bins
	cargo run -p parallax-tests --example kills

.PHONY: storm
storm: ## Eight queues under snapshots, checkpoints and collections, a minute each (STORMS=10 SEED=1); the ledger gets a row
	cargo build -p vhost-parallax --bins
	cargo run -p parallax-tests --example storm

.PHONY: guest-kills upgrades
guest-kills: ## The daemon killed under guests that run fio with verify (TIMES=100); the ledger gets a row
	cargo build -p vhost-parallax --bins
	cargo run -p parallax-tests --example guest_kills kill

upgrades: ## The daemon stopped and another binary started in its place under guests that run fio (TIMES=100); the ledger gets a row
	cargo build -p vhost-parallax --bins
	cargo run -p parallax-tests --example guest_kills upgrade

.PHONY: seeded-bugs
seeded-bugs: ## Every deliberate bug: in which world and which short sequence it is found, by which check (BUG=name WORLDS=20000 SEED=1)
	cargo run --release -p vdi-core --features sim --example seeded_bugs

.PHONY: mutants
mutants: ## Which of a seeded sample of mutants of the engine its tests catch, about a minute each (SEED=1 SAMPLE=300 JOBS=2; goes on after an interruption, FRESH=1 begins anew)
	@setup/rust.sh
	@setup/mutants.sh $(TOOLS)
	@tests/mutants.sh

.PHONY: fuzz
fuzz: ## Fuzz each target for a minute of processor time, nightly Rust (FUZZ=name for one, SECONDS=60 each; FUZZ=name INPUT=file replays)
	@setup/rust.sh
	@if [ -n "$(INPUT)" ]; then cargo run --quiet -p fuzz-targets --features front-end --example replay -- "$(FUZZ)" "$(INPUT)"; \
	else setup/fuzz.sh && FUZZ="$(FUZZ)" SECONDS_EACH="$(or $(SECONDS),60)" fuzz/run.sh .; fi

.PHONY: fuzz-corpus
fuzz-corpus: ## Keep of what `make fuzz` found as few small inputs as cover the same, in fuzz/corpus (FUZZ=name for one)
	@FUZZ="$(FUZZ)" fuzz/minimize.sh .

.PHONY: bench
bench: ## Measure: each question of benches/benches, rows to benches/runs (clean tree only; QUESTION=name for one)
	@setup/rust.sh
	@images/setup.sh
	cargo build --release --workspace --bins
	cargo bench -p parallax-benches $(if $(QUESTION),--bench $(QUESTION),--benches)

.PHONY: bench-compare
bench-compare: ## Is the build of one commit slower than that of another, side by side (A=commit B=commit)
	@setup/rust.sh
	@setup/apt.sh
	@benches/compare.sh "$(A)" "$(B)"

.PHONY: clean
clean: ## Remove build products; keeps target/tools and the guest image
	cargo clean --profile dev
	cargo clean --profile release

.PHONY: docs
docs: ## API documentation, warnings denied (target/doc)
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps $(TEST_FEATURES)

.PHONY: audit
audit: ## Known advisories of dependencies (needs network)
	@setup/tools.sh $(TOOLS)
	$(TOOLS)/bin/cargo-deny --workspace --all-features check advisories
