# Every target works in a fresh clone; `make help` lists them.

CARGO ?= cargo
# How long `make fuzz` stays at each target.
FUZZ_SECONDS ?= 10
FUZZ_TARGETS = ticket_open payload_parse bundle_decode feed_decode
# Gives the command after it a real PostgreSQL in STEK_TEST_DATABASE_URL.
WITH_POSTGRES = $(CARGO) run -q -p stek-testpg --no-default-features --bin with-postgres --

# What ships, and what is off by default beside it. The benchmarks name a second TLS stack and are
# left out, so that no test runs on it.
TESTED_FEATURES = --features stek-store/contract,stek-rustls/redis,stek-rustls/tls12

# Queries are checked against the data in crates/stek-store/.sqlx, never against a database that
# happens to be named in the environment.
export SQLX_OFFLINE = true

.DEFAULT_GOAL := help
.PHONY: help demo dev test test-long lint fmt doc golden sqlx-prepare bench-tickets fuzz

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: ## show a fleet at work for 45 s: two servers, ten-second rotation, one client that hops
	$(CARGO) run -p stekd -- demo

dev: ## run all roles on loopback in ./stekd-dev until Ctrl-C
	$(CARGO) run -p stekd -- dev

test: ## run every test; brings its own PostgreSQL
	$(WITH_POSTGRES) $(CARGO) test --workspace --exclude stek-bench $(TESTED_FEATURES)
	$(CARGO) test -p stek-core --lib --features aws-lc # the ticket format once more, over AWS-LC

test-long: ## the tests that take a minute each: what a thief of backups can open, restored databases
	$(WITH_POSTGRES) $(CARGO) test -p stek-testbed --test thief -- --ignored
	$(WITH_POSTGRES) $(CARGO) test -p stekd --test cli -- --ignored

lint: ## rustfmt, clippy and rustdoc, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	$(CARGO) clippy -p stek-rustls --no-default-features --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc -q --workspace --all-features --no-deps

fmt: ## format the code
	$(CARGO) fmt --all

doc: ## build the API documentation
	$(CARGO) doc --workspace --no-deps

golden: ## write the golden files of the wire contract anew, after a change of the contract
	STEK_GOLDEN=write $(CARGO) test -p stek-wire golden

sqlx-prepare: ## write the checked-in query data anew, after a change of SQL
	$(WITH_POSTGRES) sh crates/stek-store/sqlx-prepare.sh

bench-tickets: ## measure sealing, opening and accepting beside rustls' own ticketers
	$(CARGO) run -q --release -p stek-bench

fuzz: ## fuzz each target for FUZZ_SECONDS (10); needs nightly and cargo-fuzz
	@sh fuzz/run.sh $(FUZZ_SECONDS) $(FUZZ_TARGETS)
