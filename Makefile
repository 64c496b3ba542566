# make run     a gateway with a Redis of its own, ready to use
# make test    everything: what is missing is installed, then format, lints and tests
# make model   the model check with 500 seeds instead of 20 (half an hour); docs/testing.md
# make mutants proves that the model check finds what was broken on purpose
# make soak    ten minutes of mixed load with faults, after which nothing may have grown
# make bench   the parts of a check and of a refresh, one by one, and the scripts inside Redis
# make bench-http    a check over HTTP next to what else would answer it, and Gatehouse at size;
#                    writes benches/RESULTS.md (half an hour), and what it costs each proxy, in
#                    docs/proxies/README.md
# make bench-guard   fails when a check, a refresh or a create needs more instructions than before

.PHONY: run test model model-20 mutants soak bench bench-http bench-guard setup-run setup-test setup-bench fmt lint unit integration

run: setup-run
	cargo run --release -- serve --dev

test: setup-test fmt lint unit bench-guard integration model-20

# GATEHOUSE_MODEL_SEED=7 runs one seed, GATEHOUSE_MODEL_FIRST=500 others than the first ones.
model: setup-test
	GATEHOUSE_MODEL_SEEDS=$${GATEHOUSE_MODEL_SEEDS:-500} $(MODEL)

model-20: setup-test
	$(MODEL)

MODEL = cargo test --locked --test integration -- --nocapture model::

# GATEHOUSE_MODEL_MUTANT=m3 builds the same and looks for one.
mutants: setup-test
	cargo clippy --locked --all-targets --features mutations -- -D warnings
	cargo test --locked --features mutations --test integration -- --nocapture --ignored model::mutants

# GATEHOUSE_SOAK_SECONDS=180 is a shorter one.
soak: setup-test
	cargo test --locked --test integration -- --nocapture --ignored model::soak

bench: setup-test
	cargo bench --locked --bench parts --bench scripts

# A package of its own, so that Gatehouse does not depend on its rivals.
COMPARE = --manifest-path benches/http/Cargo.toml

bench-http: setup-bench
	cargo clippy --locked --all-targets $(COMPARE) --target-dir target/http -- -D warnings
	cargo build --locked --release
	cargo build --locked --release $(COMPARE) --target-dir target/http
	target/http/release/compare
	target/http/release/scale
	target/http/release/proxies

# UPDATE=--update writes down what was counted as what is allowed.
bench-guard: setup-test
	cargo bench --locked --bench guard -- $(UPDATE)

setup-run:
	@scripts/install redis-server

setup-test:
	@scripts/install redis-server redis-cli nginx haproxy valgrind proxies

setup-bench:
	@scripts/install redis-server redis-cli wrk node npm nginx haproxy proxies

fmt:
	cargo fmt --check
	cargo fmt --check $(COMPARE)

lint:
	cargo clippy --locked --all-targets -- -D warnings

unit:
	cargo test --locked --lib --bins

# Many tests measure how fast a revocation is obeyed: more at once than this would measure the machine.
integration:
	cargo test --locked --test integration -- --test-threads 4 --skip model::
