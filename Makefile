# make: the program, its man pages and its shell completions
# make demo: the main job, shown on a throwaway host
# make test: every check and test there is

export RUST_BACKTRACE ?= 0

.PHONY: build demo test

sources := Cargo.toml Cargo.lock $(shell find src share/generate.rs share/man -type f)

build: target/release/macfence target/share

target/release/macfence: $(sources)
	cargo build --release --locked --target-dir target
	@touch $@

target/share: $(sources)
	rm -rf $@
	cargo run --release --locked --target-dir target --example generate -- $@
	@touch $@

demo:
	@tests/setup demo
	@cargo test --no-run --test demo
	@cargo test --quiet --test demo

test:
	tests/setup
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked
	cargo test --locked
	cargo test --locked --quiet --test demo
