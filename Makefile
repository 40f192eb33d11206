# make: the program, its man pages and its shell completions
# make install: puts them on this host, below PREFIX and in /etc; make uninstall takes them away
# make deb, make rpm: packages, in target/deb and target/rpm: macfence for hosts, and macfence-opennebula
# with the files for an OpenNebula front-end
# make dist: a tarball and its SHA256SUMS, in target/dist
# make demo: the main job, shown on a throwaway host
# make test: every check and test there is
# make bench: what it costs, beside what it replaces; about six minutes on an idle machine
# make audit: dependencies that nothing uses, and their licences and sources

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PREFIX ?= /usr/local
export RUST_BACKTRACE ?= 0
# The tools for packages are where tests/setup puts them, if not elsewhere.
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

# Packages and the tarball carry the time of the last commit, so that two builds give the same files.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.lock)

.PHONY: build install uninstall deb rpm dist demo test bench audit

sources := Cargo.toml Cargo.lock $(shell find src share/generate.rs share/man -type f)

# Statically linked: it runs on hosts whose C library is older than the one here, and starts faster. It
# has a folder of its own, because `cargo build --release` puts another program into target/release.
program := target/static/release/macfence

build: $(program) target/share

# A program that is newer than its sources is left alone: `sudo make install` needs no cargo after `make`.
$(program): $(sources)
	cargo rustc --release --locked --bin macfence --target-dir target/static -- -C target-feature=+crt-static
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
	@install -D -m 755 -t "$(DESTDIR)$(PREFIX)/sbin" $(program)
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
	@$(call copy,share/xen,$(PREFIX)/share/macfence/xen)
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

version := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# As packages spell it: a "~" comes before the release, a "-" after it.
package_version := $(subst -,~,$(version))
rpm_version := --set-metadata 'version = "$(package_version)"'
dist := macfence-$(version)-$(shell uname -m)-linux

# $(call front_end,ROOT,NEW): moves what only an OpenNebula front-end needs from ROOT to NEW, and gives it
# the documentation.
front_end = install -d $(2)/usr/share/macfence $(2)/usr/share/doc/macfence-opennebula && \
	mv $(1)/usr/share/macfence/opennebula $(2)/usr/share/macfence && \
	install -m 644 -t $(2)/usr/share/doc/macfence-opennebula \
	  $(filter-out docs/CHANGELOG.md,$(wildcard docs/*.md))

# $(call scripts,KIND): a package's maintainer scripts, as target/KIND/scripts.
scripts = install -d target/$(1)/scripts && for script in share/packages/$(1)/*; do \
	sed -e '/^@removal@$$/{r share/packages/removal.sh' -e 'd}' \
	  -e '/^@next@$$/{r share/packages/next.sh' -e 'd}' $$script >target/$(1)/scripts/$${script\#\#*/}; done

deb: build
	rm -rf target/deb
	$(MAKE) -s install DESTDIR=target/deb/root PREFIX=/usr
	@# Where Debian's zsh looks.
	mv target/deb/root/usr/share/zsh/{site-functions,vendor-completions}
	@$(call front_end,target/deb/root,target/deb/opennebula)
	@$(call scripts,deb)
	@install -D -m 644 -t target/deb/root/usr/share/lintian/overrides share/packages/lintian/macfence
	@install -D -m 644 -t target/deb/opennebula/usr/share/lintian/overrides share/packages/lintian/macfence-opennebula
	@for package in macfence macfence-opennebula; do \
	  sed "s|@package@|$$package|; s|@version@|$(package_version)-1|; s|@date@|$$(LC_ALL=C date -uRd @$$SOURCE_DATE_EPOCH)|" \
	    share/packages/changelog >target/deb/$$package.changelog; done
	cargo deb --locked --no-build --no-strip --deb-version $(package_version)-1 --output target/deb/
	@# cargo-deb makes no package for all architectures.
	@cd target/deb/opennebula && install -d DEBIAN && \
	  sed "s|@version@|$(package_version)-1|; s|@size@|$$(du -sk usr | cut -f1)|" ../../../share/packages/opennebula.control >DEBIAN/control && \
	  sed '/^Files: rust/,$$d' ../../../share/packages/copyright | \
	    install -m 644 /dev/stdin usr/share/doc/macfence-opennebula/copyright && \
	  gzip -9n <../macfence-opennebula.changelog >usr/share/doc/macfence-opennebula/changelog.Debian.gz && \
	  find usr -type f -printf '%P\0' | sort -z | (cd usr && xargs -0 md5sum) | sed 's|  |  usr/|' >DEBIAN/md5sums
	dpkg-deb --root-owner-group -b target/deb/opennebula target/deb/

rpm: build
	rm -rf target/rpm
	$(MAKE) -s install DESTDIR=target/rpm/root PREFIX=/usr
	@# cargo-generate-rpm knows no links.
	for hook in target/rpm/root/usr/{share/macfence/hooks,libexec/macfence}/*; do rm $$hook; \
	  printf '#!/bin/sh\nexec /usr/sbin/macfence hook %s -- "$$@"\n' $${hook##*/} >$$hook; done
	@$(call front_end,target/rpm/root,target/rpm/opennebula)
	@$(call scripts,rpm)
	cargo generate-rpm --auto-req builtin $(rpm_version) --output target/rpm/
	cargo generate-rpm --auto-req disabled $(rpm_version) --variant opennebula --arch noarch --output target/rpm/

# The files of `make install`, in one folder, as below /. Folders are not in it: unpacking it changes no
# mode and no link of a folder that is there.
dist: build
	rm -rf target/dist
	$(MAKE) -s install DESTDIR=target/dist/$(dist)
	@install -m 644 -t target/dist/$(dist)$(PREFIX)/share/doc/macfence LICENSE share/packages/{copyright,LGPL-2.1}
	cd target/dist && find $(dist) ! -type d | LC_ALL=C sort | \
	  tar -c --owner=0 --group=0 --numeric-owner --mtime=@$$SOURCE_DATE_EPOCH --format=gnu -T - | \
	  gzip -9n >$(dist).tar.gz
	cd target/dist && rm -r $(dist) && sha256sum $(dist).tar.gz >SHA256SUMS

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
	$(MAKE) deb rpm dist
	cargo test --locked
	cargo test --locked --quiet --test demo

# It measures the program that the packages carry.
bench: export MACFENCE_PROGRAM = $(abspath $(program))
bench: build
	@tests/setup bench
	@cargo test --release --locked --no-run --test bench
	@cargo test --release --locked --quiet --test bench

audit:
	@CARGO_PROFILE_DEV_DEBUG=false cargo install --quiet --locked --debug --root target/tools \
	  --target-dir target/tools-build cargo-machete@0.9.2 cargo-deny@0.20.2
	@rm -rf target/tools-build
	cargo machete
	cargo deny --config tests/deny.toml check licenses bans sources
