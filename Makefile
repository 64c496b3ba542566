# make run     a gateway with a Redis of its own, ready to use
# make test    everything: what is missing is installed, then format, lints and tests
# make bench   the parts of a check and of a refresh, one by one

.PHONY: run test bench setup-run setup-test fmt lint unit integration

run: setup-run
	cargo run --release -- serve --dev

test: setup-test fmt lint unit integration

bench:
	cargo bench --bench parts

setup-run:
	@scripts/install redis-server

setup-test:
	@scripts/install redis-server redis-cli nginx

fmt:
	cargo fmt --check

lint:
	cargo clippy --locked --all-targets -- -D warnings

unit:
	cargo test --locked --lib --bins

# Many tests measure how fast a revocation is obeyed: more at once than this would measure the machine.
integration:
	cargo test --locked --test integration -- --test-threads 4
