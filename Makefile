# make demo: the main job, shown on a throwaway host
# make test: every check and test there is

export RUST_BACKTRACE ?= 0

.PHONY: build demo test

build:
	cargo build --release

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
