# Every target works in a fresh clone; `make help` lists them.

CARGO ?= cargo
# Further options of `make test`.
TEST_FLAGS ?=
# How long `make fuzz` stays at each target.
FUZZ_SECONDS ?= 10
FUZZ_TARGETS = ticket_open payload_parse bundle_decode feed_decode
# Gives the command after it a real PostgreSQL in STEK_TEST_DATABASE_URL.
WITH_POSTGRES = $(CARGO) run -q -p stek-testpg --no-default-features --bin with-postgres --

# What ships, and what is off by default beside it. The benchmarks name a second TLS stack and are
# left out, so that no test runs on it.
TESTED_FEATURES = --features \
	stek-store/contract,stek-wire/schema,stek-rustls/redis,stek-rustls/tls12,stekd/otlp

# Queries are checked against the data in crates/stek-store/.sqlx, never against a database that
# happens to be named in the environment.
export SQLX_OFFLINE = true

.DEFAULT_GOAL := help
.PHONY: help demo demo-revoke dev test test-builds test-long test-page test-api lint fmt doc man golden sqlx-prepare \
	bench-tickets bench-distribution bench-manager fuzz \
	up up-offline proof down test-compose test-deploy test-readme

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: ## show a fleet at work for 45 s: two servers, ten-second rotation, one client that hops
	$(CARGO) run -p stekd -- demo

demo-revoke: ## show a revocation reach a hundred terminators
	$(CARGO) run -p stekd -- demo-revoke

dev: ## run all roles on loopback in ./stekd-dev until Ctrl-C
	$(CARGO) run -p stekd -- dev

test: ## run every test; brings its own PostgreSQL
	$(WITH_POSTGRES) $(CARGO) test $(TEST_FLAGS) --workspace --exclude stek-bench $(TESTED_FEATURES)
	$(CARGO) test -p stek-core --lib # the ticket format once more, without AWS-LC
	$(CARGO) test -p stekd --test cli without_the_exporter # the program as it is built by default

test-builds: ## test what is built in other ways: the adapter by default, the AEAD in release, the benchmarks
	$(CARGO) test -p stek-rustls # without TLS 1.2 and Redis
	$(CARGO) test --release -p stek-core --features aws-lc --lib xaes # what it leaves on the stack as it is shipped
	$(CARGO) test -p stek-bench # by itself, for it brings ring

test-page: ## test the status page in Chromium; installs what it needs in target/, Chromium by apt-get as root
	browser/run.sh

test-api: ## ask both HTTP interfaces what their OpenAPI documents allow and what not; needs a package index
	api/run.sh

test-long: ## the tests that take a minute each: what a thief of backups can open, restored databases, killed rivals
	$(WITH_POSTGRES) $(CARGO) test -p stek-testbed --test thief -- --ignored
	$(WITH_POSTGRES) $(CARGO) test -p stekd --test cli -- --ignored

lint: ## rustfmt, clippy and rustdoc, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	$(CARGO) clippy -p stek-rustls --no-default-features --all-targets -- -D warnings
	$(CARGO) clippy -p stekd --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc -q --workspace --all-features --no-deps

fmt: ## format the code
	$(CARGO) fmt --all

doc: ## build the API documentation
	$(CARGO) doc --workspace --no-deps

man: ## write the manual pages of all commands to target/man
	$(CARGO) run -q -p stekd -- man --out target/man

golden: ## write the golden files of the wire contract anew, after a change of the contract
	STEK_GOLDEN=write $(CARGO) test -p stek-wire golden

sqlx-prepare: ## write the checked-in query data anew, after a change of SQL
	$(WITH_POSTGRES) sh crates/stek-store/sqlx-prepare.sh

bench-tickets: ## measure sealing, opening and accepting beside rustls' own ticketers
	$(CARGO) run -q --release -p stek-bench -- tickets

bench-distribution: ## measure the distribution API beside nginx; needs two cores and nginx
	$(CARGO) build -q --release -p stekd
	$(CARGO) run -q --release -p stek-bench -- distribution

bench-manager: ## measure passes of the manager over 10,000 keysets; brings its own PostgreSQL
	$(WITH_POSTGRES) $(CARGO) run -q --release -p stek-testbed --bin bench-manager

fuzz: ## fuzz each target for FUZZ_SECONDS (10; 3600 for an hour); needs a nightly toolchain
	@sh fuzz/run.sh $(FUZZ_SECONDS) $(FUZZ_TARGETS)

up: ## start the fleet of docker-compose.yml; needs Docker and a registry
	deploy/compose.sh up --build --detach --wait --wait-timeout 1800

up-offline: ## the same without a registry: images from Debian's packages, the program from cargo; needs root
	@deploy/offline/up.sh

proof: ## show with OpenSSL that a session begun at one terminator of it resumes at the other
	@deploy/proof.sh

down: ## take the fleet away: containers, networks, volumes, and the images built for it
	deploy/compose.sh --profile '*' down --volumes --remove-orphans --timeout 30
	@docker image rm --force stekd:compose stekd-offline:base >/dev/null 2>&1 || true

test-compose: ## run the fleet, kill its parts in turn while the proof goes on; starts a Docker daemon if need be
	@deploy/test-compose.sh

test-deploy: ## check alerts, systemd units, manifests and compose files with their own tools
	@deploy/test-deploy.sh

test-readme: ## paste the shell blocks of README.md, as written, into a shell
	@deploy/test-readme.sh
