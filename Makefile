# make: the program, its man pages and its shell completions
# make install: puts them on this host, below PREFIX and in /etc; make uninstall takes them away
# make deb, make rpm: the same as a package, in target/deb and target/rpm
# make demo: the main job, shown on a throwaway host
# make test: every check and test there is
# make bench: what it costs, beside what it replaces; some minutes on an idle machine
# make audit: dependencies that nothing uses, and their licences and sources

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PREFIX ?= /usr/local
export RUST_BACKTRACE ?= 0
# The tools for packages are where tests/setup puts them, if not elsewhere.
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

.PHONY: build install uninstall deb rpm demo test bench audit

sources := Cargo.toml Cargo.lock $(shell find src share/generate.rs share/man -type f)

build: target/release/macfence target/share

# What is newer than its sources is left alone: so `sudo make install` needs no cargo after `make`.
target/release/macfence: $(sources)
	cargo build --release --locked --target-dir target
	@touch $@

target/share: $(sources)
	rm -rf $@
	cargo run --quiet --locked --target-dir target --example generate -- $@
	@touch $@

# Fills a file's places in.
fill = sed 's|@sbindir@|$(PREFIX)/sbin|; s|@libexecdir@|$(PREFIX)/libexec|g; s|@datadir@|$(PREFIX)/share|'

# $(call copy,FROM,TO): every file below a directory.
copy = cd $(1) && find . -type f | while read -r file; do mode=644; [ ! -x "$$file" ] || mode=755; \
	$(fill) "$$file" | install -D -m $$mode /dev/stdin "$(abspath $(DESTDIR))$(2)/$$file"; done

# $(call keep,MODE,FROM,TO): a file that the operator may have changed: then it stays.
keep = if [ -e "$(DESTDIR)$(3)" ] && ! $(fill) $(2) | cmp -s - "$(DESTDIR)$(3)"; \
	then echo "kept $(3): it is not the one that comes with macfence"; \
	else $(fill) $(2) | install -D -m $(1) /dev/stdin "$(DESTDIR)$(3)"; fi

# Enables nothing: what calls macfence is put where it is called by the operator.
install: build
	@install -D -m 755 -t "$(DESTDIR)$(PREFIX)/sbin" target/release/macfence
	@install -d "$(DESTDIR)$(PREFIX)/share/macfence/hooks"
	@for hook in ebtables-kvm ebtables-xen ebtables-flush; do \
	  ln -sf ../../../sbin/macfence "$(DESTDIR)$(PREFIX)/share/macfence/hooks/$$hook"; done
	@install -d "$(DESTDIR)$(PREFIX)/libexec/macfence"
	@for entry in ebtables-kvm ebtables-xen ebtables-flush one-post one-clean driver-post driver-clean; do \
	  ln -sf ../../sbin/macfence "$(DESTDIR)$(PREFIX)/libexec/macfence/$$entry"; done
	@$(call copy,share/libvirt,$(PREFIX)/share/macfence/libvirt)
	@$(call copy,share/opennebula,$(PREFIX)/share/macfence/opennebula)
	@$(call copy,share/prometheus,$(PREFIX)/share/macfence/prometheus)
	@$(call copy,share/systemd,$(PREFIX)/lib/systemd/system)
	@$(call copy,share/tmpfiles.d,$(PREFIX)/lib/tmpfiles.d)
	@$(call copy,target/share,$(PREFIX)/share)
	@install -D -m 644 -t "$(DESTDIR)$(PREFIX)/share/man/man5" share/man/macfence.toml.5
	@install -D -m 644 -t "$(DESTDIR)$(PREFIX)/share/doc/macfence" README.md
	@$(call copy,docs,$(PREFIX)/share/doc/macfence/docs)
	@$(call keep,644,share/macfence.toml,/etc/macfence.toml)
	@$(call keep,440,share/sudoers,/etc/sudoers.d/macfence)
	@! grep -qsE '^Cmnd_Alias MACFENCE = .*/nft ' "$(DESTDIR)/etc/sudoers.d/macfence" || \
	  echo "warning: /etc/sudoers.d/macfence is version 0.1's: it lets oneadmin read root's files; delete it and run make install again"

# Deletes what `install` puts elsewhere, so that there is one list of files.
uninstall: build
	@tree=$$(mktemp -d); trap 'rm -rf "$$tree"' EXIT; $(MAKE) -s -o build install DESTDIR="$$tree"; \
	for file in /etc/macfence.toml /etc/sudoers.d/macfence; do \
	  [ ! -e "$(DESTDIR)$$file" ] || cmp -s "$$tree$$file" "$(DESTDIR)$$file" || \
	    { echo "left $$file: it is not the one that comes with macfence"; rm "$$tree$$file"; }; done; \
	(cd "$$tree"; find . ! -type d -print0) | (cd "$(DESTDIR)/"; xargs -0 rm -f); \
	(cd "$$tree"; find . -depth -type d \( -path '*/macfence*' -o -name nftables.service.d \) -print0) | \
	  (cd "$(DESTDIR)/"; xargs -0 rmdir 2>/dev/null || true)

deb: build
	rm -rf target/deb
	$(MAKE) -s install DESTDIR=target/deb/root PREFIX=/usr
	@# Where Debian's zsh looks.
	mv target/deb/root/usr/share/zsh/{site-functions,vendor-completions}
	cargo deb --locked --no-build --no-strip --output target/deb/

rpm: build
	rm -rf target/rpm
	$(MAKE) -s install DESTDIR=target/rpm/root PREFIX=/usr
	@# cargo-generate-rpm knows no links.
	for hook in target/rpm/root/usr/{share/macfence/hooks,libexec/macfence}/*; do rm $$hook; \
	  printf '#!/bin/sh\nexec /usr/sbin/macfence hook %s -- "$$@"\n' $${hook##*/} >$$hook; done
	cargo generate-rpm --auto-req builtin --output target/rpm/

demo:
	@tests/setup demo
	@cargo test --no-run --test demo
	@cargo test --quiet --test demo

test:
	tests/setup
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --test demo --test bench --locked -- -D warnings # that leaves these out
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked
	$(MAKE) deb rpm
	cargo test --locked
	cargo test --locked --quiet --test demo

bench:
	@tests/setup bench
	@cargo test --release --locked --no-run --test bench
	@cargo test --release --locked --quiet --test bench

audit:
	@CARGO_PROFILE_DEV_DEBUG=false cargo install --quiet --locked --debug --root target/tools \
	  --target-dir target/tools-build cargo-machete@0.9.2 cargo-deny@0.20.2
	@rm -rf target/tools-build
	cargo machete
	cargo deny --config tests/deny.toml check licenses bans sources
