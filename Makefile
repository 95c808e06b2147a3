# Everything installs what it needs below build/ and target/, says what it does, and is quick when repeated.
# PG chooses the PostgreSQL: 18 (default) or 15.
PG ?= 18
export RUST_BACKTRACE ?= 0

.PHONY: demo test test-all chaos gallery sim sim-report lint bench bench-rows sandbox sandbox-down clean install package reference bench-throttle bench-monitor bench-times

# Sets everything up and heals three collections of real embeddings while an application reads and writes.
demo:
	toolchain/extension $(PG) >/dev/null
	cargo run --quiet -p ruvectorctl -- demo --pg $(PG)

# Behaviours that take a minute or more: crashes in every phase, three hundred quiet samples, load to be held, every kind of
# index. `make test-all` has them.
LONG := backpressure crash crowd hostile index_kinds large leases ledger moving_crash moving_servers pause quiet rebalance rebuilds servers standby throttle
BEHAVIOURS := $(filter-out $(LONG),$(basename $(notdir $(wildcard tests/*.rs))))
# They wait more than they work: two at a time.
half-1 := $(shell printf '%s\n' $(BEHAVIOURS) | awk 'NR % 2')
half-2 := $(filter-out $(half-1),$(BEHAVIOURS))
only = $(addprefix --test ,$(1))

# For another PostgreSQL than the ones below build/, with its server headers: make install PG_CONFIG=/usr/bin/pg_config
# (PREFIX=/usr/local for ruvectorctl). 15 to 18 compile; the tests run on 15 and 18.
.PHONY: package install reference
PG_CONFIG ?= $(shell toolchain/postgres$(PG))
PREFIX ?= /usr/local
package:
	toolchain/package $(PG_CONFIG)

install:
	tarball=$$(toolchain/package $(PG_CONFIG)) && DESTDIR=$(DESTDIR) "$${tarball%.tar.gz}/install.sh" $(PG_CONFIG) $(PREFIX)

# Takes the files away again; DROP EXTENSION in each database and the preload come first (docs/operating.md).
.PHONY: uninstall
uninstall:
	tarball=$$(toolchain/package $(PG_CONFIG)) && DESTDIR=$(DESTDIR) "$${tarball%.tar.gz}/install.sh" --remove $(PG_CONFIG) $(PREFIX)

# docs/reference.md, from the catalog, the install script's comments and the core's tables.
reference:
	toolchain/extension $(PG) >/dev/null
	RUVECTOR_WRITE_REFERENCE=1 cargo test --quiet -p tests --test reference

# The core, the behaviours that are quick on a real PostgreSQL 18, and a few on PostgreSQL 15.
test:
	toolchain/extension 18 >/dev/null
	cargo test
	cargo test -p tests --no-run
	$(MAKE) --no-print-directory -j2 --output-sync=target behaviours-1 behaviours-2
	toolchain/extension 15 >/dev/null
	RUVECTOR_TEST_PG=15 cargo test -p tests --no-fail-fast $(call only,registering search_effort heal)
	RUVECTOR_TEST_PG=15 cargo test -p ruvectorctl --test connecting

.PHONY: behaviours-1 behaviours-2
behaviours-1 behaviours-2: behaviours-%:
	RUVECTOR_TEST_PG=18 cargo test -p tests --no-fail-fast $(call only,$(half-$*))
# Everything, on both.
test-all: test
	RUVECTOR_TEST_PG=18 cargo test -p tests --no-fail-fast $(call only,$(LONG))
	RUVECTOR_TEST_PG=15 cargo test -p tests --no-fail-fast $(call only,$(BEHAVIOURS) $(LONG))
	RUVECTOR_TEST_PG=15 cargo test -p ruvectorctl
	$(MAKE) cures PG=18
	$(MAKE) cures PG=15
	$(MAKE) panic
	toolchain/prometheus >/dev/null
	cargo test -p ruvectorctl --test alerts -- --ignored
	RUVECTOR_TEST_PG=18 cargo test -p ruvectorctl --test package -- --ignored
	RUVECTOR_TEST_PG=15 cargo test -p ruvectorctl --test package -- --ignored
	if browser=$$(toolchain/browser); then RUVECTOR_BROWSER=$$browser cargo test -p ruvectorctl --test browser -- --ignored; \
	  else echo 'SKIPPED: the dashboard was not looked at, there is no Chromium'; fi
	$(MAKE) sim SEEDS=4000 MINUTES=30

# Faults, remedies, moments and what strikes then, with a ledger of acknowledged writes: make chaos ROUNDS=200 SEED=1
# (ONLY=hot,throttle_ingestion). WITHOUT=journal, lease or single-flight shows that a healer which lacks it is found out.
chaos:
	$(if $(filter single-flight,$(WITHOUT)),RUVECTOR_FEATURES=without_single_flight) toolchain/extension $(PG) >/dev/null
	status=0; cargo run --quiet -p tests --bin chaos -- --pg $(PG) --rounds $(or $(ROUNDS),20) --seed $(or $(SEED),1) \
	  $(if $(ONLY),--only $(ONLY)) $(if $(WITHOUT),--without $(WITHOUT)) || status=$$?; \
	$(if $(filter single-flight,$(WITHOUT)),toolchain/extension $(PG) >/dev/null;) exit $$status

# Each remedy on its fault, and nobody who strikes: what users feel before and after, with more than 200 writes a second held
# against the ledger, and then taken back: make cures PG=15 ONLY=hot. The table is build/cures-18.md.
.PHONY: cures
cures:
	toolchain/extension $(PG) >/dev/null
	@mkdir -p build
	cargo run --quiet -p tests --bin chaos -- --pg $(PG) --peace build/cures-$(PG).md $(if $(ONLY),--only $(ONLY))

# What a panic in an action leaves behind: a build that has one, then the usual one again.
.PHONY: panic
panic:
	RUVECTOR_FEATURES=panics toolchain/extension $(PG) >/dev/null
	status=0; RUVECTOR_TEST_PG=$(PG) cargo test -p tests --test panic -- --ignored || status=$$?; \
	toolchain/extension $(PG) >/dev/null; exit $$status

# Every fault made for real, at both levels: was it found, how soon, under its name? Ends with a table; the page is
# build/gallery.html. make gallery SEEDS=10 FIRST_SEED=0 PG=15 ONLY=hot_partition,look_alikes; CONTINUE=1 adds to the last one.
gallery:
	toolchain/extension $(PG) >/dev/null
	GALLERY_SEEDS=$(or $(SEEDS),10) GALLERY_FIRST_SEED=$(or $(FIRST_SEED),0) GALLERY_ONLY=$(ONLY) $(if $(CONTINUE),GALLERY_CONTINUE=1) \
	  RUVECTOR_TEST_PG=$(PG) \
	  cargo test --quiet -p tests --test gallery

# Simulated weeks on all cores, the last line a summary: make sim SEEDS=10000 FIRST_SEED=0 (JOBS=1, MINUTES=60).
sim:
	cargo run --quiet --release -p simulator -- run $(if $(SEEDS),--seeds $(SEEDS)) \
	  $(if $(FIRST_SEED),--first-seed $(FIRST_SEED)) $(if $(JOBS),--jobs $(JOBS)) $(if $(MINUTES),--minutes $(MINUTES))

# The healer and what people do without one, in the same worlds: a table, and build/sim-report.html.
sim-report:
	@mkdir -p build
	cargo run --quiet --release -p simulator -- report --out build/sim-report.html \
	  $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FIRST_SEED),--first-seed $(FIRST_SEED)) $(if $(JOBS),--jobs $(JOBS))

lint:
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy -p tests --all-targets -- -D warnings
	exports=$$(toolchain/environment $(PG)) && eval "$$exports" && \
	  cargo clippy -p ruvector --no-default-features --features pg$(PG) -- -D warnings
	command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check

# The cut against the crates that others use, on the graphs of its README: ratios, side by side (SECONDS=15 a measurement).
# Then a rebuild by the healer against a bare one, in pairs (tests/benches/README.md; INDEX_BENCH="12000:384:12 1000000:128:3").
# First the heals that are lost to the wrong remedy, against other rules of choosing (two minutes).
bench:
	cargo bench -p healing --bench regret
	cargo run --release --target-dir target --manifest-path crates/mincut/benches/peers/Cargo.toml -- \
	  --seconds $(or $(SECONDS),15)
	toolchain/extension $(PG) >/dev/null
	RUVECTOR_TEST_PG=$(PG) cargo bench -p tests --bench heal -- $(INDEX_BENCH)

# What moving rows costs, on PostgreSQL $(PG): rows a second, writers beside it, COPY into a managed collection (ONLY=moving or
# copying; PAIRS=8).
bench-rows:
	toolchain/extension $(PG) >/dev/null
	RUVECTOR_TEST_PG=$(PG) cargo bench --quiet -p tests --bench rows

# What looking costs: samples of eight and of a thousand partitions, inspections and the recall panel apart (ONLY=eight,wide,panel;
# BENCH_ROWS=1000000 for the panel).
bench-monitor:
	toolchain/extension $(PG) >/dev/null
	RUVECTOR_TEST_PG=$(PG) cargo bench --quiet -p tests --bench monitor --profile dev

# How long users wait with the default settings: an invalid index, lists that do not fit, an abort (ROUNDS=10 of each).
bench-times:
	toolchain/extension $(PG) >/dev/null
	RUVECTOR_TEST_PG=$(PG) cargo bench --quiet -p tests --bench times --profile dev

# What a throttle holds and what the hooks cost without one (ONLY=held or ONLY=cost): tests/benches/README.md.
bench-throttle:
	toolchain/extension 18 >/dev/null
	cargo bench --quiet -p tests --bench throttle --profile dev -- $(ONLY)

# A lasting server with the extension preloaded and created: make sandbox DIR=/tmp/somewhere
sandbox:
	@test -n "$(DIR)" || { echo 'which directory? make sandbox DIR=/path' >&2; exit 2; }
	@toolchain/extension $(PG) >/dev/null
	@cargo run --quiet -p ruvectorctl -- sandbox --pg $(PG) "$(DIR)"

sandbox-down:
	@test -n "$(DIR)" || { echo 'which directory? make sandbox-down DIR=/path' >&2; exit 2; }
	@cargo run --quiet -p ruvectorctl -- sandbox-down "$(DIR)"

clean:
	rm -rf build target
