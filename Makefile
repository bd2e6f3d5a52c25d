# `make` lists the targets; nothing happens without a word.

.DEFAULT_GOAL := help
.PHONY: help demo demo-remove build release image man test test-recipes test-matrix test-upgrade test-deploy check lint fmt bench bench-gentle bench-lag bench-footprint clean postgres

CARGO ?= cargo

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

ifdef DOCKER
demo: ## A million orders filled under live traffic, on a throw-away server (KEEP=1 leaves it up; DOCKER=1 with Prometheus and Grafana)
	@exec scripts/demo-docker.sh

demo-remove: ## Remove what `make demo KEEP=1` or `make demo DOCKER=1` left up
	@exec scripts/demo-docker.sh --remove
else
demo: postgres
	$(CARGO) build --release --locked --package backfilld --package backfilld-testbed --bins
	@target=$${CARGO_TARGET_DIR:-target}; exec "$$target/release/demo" "$$target/release/backfilld"

demo-remove:
	@exec "$${CARGO_TARGET_DIR:-target}/release/demo" --remove
endif

build: ## The daemon, optimized, in target/release
	$(CARGO) build --release --locked --bin backfilld

release: ## Static binaries for x86_64 and aarch64 with checksums, in target/dist (ARCH="aarch64" picks, VERIFY=1 builds twice)
	@CARGO='$(CARGO)' scripts/release.sh $(ARCH)

IMAGE_BUILD ?= docker build
image: ## The container image, backfilld:VERSION (IMAGE_BUILD="podman build --format docker" for another engine)
	@version=$$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml); \
	set -x; $(IMAGE_BUILD) --build-arg VERSION=$$version --build-arg REVISION=$$(git rev-parse HEAD) --tag backfilld:$$version .

man: build ## The manual's pages, in target/man
	@target=$${CARGO_TARGET_DIR:-target}; exec "$$target/release/backfilld" man "$$target/man"

test: postgres ## All tests, on real servers that they start themselves
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		set -x; $(CARGO) nextest run --locked --workspace --no-fail-fast && $(CARGO) test --locked --workspace --doc; \
	else \
		set -x; $(CARGO) test --locked --workspace --no-fail-fast -- --test-threads=4; \
	fi

test-recipes: postgres ## The recipes of docs/recipes whose tool is installed (PYTHON=... has Django and Alembic)
	$(CARGO) build --locked --bin backfilld
	@examples/recipes/check.sh

test-matrix: ## The integration tests on PostgreSQL 14 to 18; MAJORS="14 18" and FILTER='test(rights)' pick some
	@scripts/test-matrix.sh $(MAJORS)

test-upgrade: postgres ## This release beside the last one's own daemon, which is built from its tag
	@previous=$$(CARGO='$(CARGO)' scripts/build-previous.sh) && BACKFILLD_PREVIOUS=$$previous $(CARGO) test --locked --test it -- upgrade:: two_releases:: --test-threads=2

test-deploy: postgres ## What is deployed: manifests, image, unit, compose file, rules, alerts, dashboard, status page (PARTS="prometheus systemd" picks)
	@scripts/test-deploy.sh $(PARTS)

check: lint test ## What has to pass before a change goes in: format, lints, tests

lint: ## Format, lints (warnings are errors), licenses and duplicates of dependencies, unused ones
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@tools=$$(CARGO='$(CARGO)' scripts/setup-lint.sh) && export PATH="$$tools:$$PATH" && set -x && \
		cargo-deny --log-level error --locked check licenses bans sources && cargo-machete .

fmt: ## Format the code
	$(CARGO) fmt --all

bench: postgres ## Measure the speed against a single UPDATE
	$(CARGO) bench --locked --bench speed

bench-gentle: postgres ## Measure what the application feels, beside fixed batches and one UPDATE; about half an hour
	$(CARGO) bench --locked --bench gentle

bench-lag: postgres ## Measure how near a job comes to what a slowed standby can take
	$(CARGO) bench --locked --bench lag

bench-footprint: postgres ## Measure how a table grows, and what the daemon's monitoring costs the server
	$(CARGO) bench --locked --bench footprint

clean: ## Remove what was built
	$(CARGO) clean

postgres:
	@scripts/setup-postgres.sh
