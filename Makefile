# Works on a fresh Debian machine as root: missing dependencies are installed.
.DEFAULT_GOAL := help
.PHONY: help demo demo-down test long fuzz lint sanity unit molecule docs images bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## a throwaway mail server in Docker: a message out, a message in, and how to look around
	@tools/demo

demo-down: ## remove the demo; images and name server stay for the next time
	@docker rm --force demo-vps demo-relay demo-acme

test: ## everything: lint, unit tests, every scenario on both Debian releases, every ansible-core
	@tools/test

long: ## tests that need real time, real size or all pairs
	@tools/test --long

fuzz: ## a part of it: 20 minutes of dialogues with errors; FUZZ_SEED=N repeats those of a seed
	@PYTEST_ADDOPTS='-k mistakes' tools/test --long molecule-operation

lint: ## linters, and the collection builds
	@tools/lint

sanity: ## the checkers of ansible-test, with every ansible-core
	@for version in 2.19 2.20 2.21; do tools/sanity $$version --python 3.13 || exit; done

unit: ## unit tests
	@tools/test unit

molecule: ## every scenario, or one: make molecule SCENARIO=default
	@tools/test 'molecule-$(or $(SCENARIO),*)'

docs: ## docs/variables.md, docs/providers.md and the tables of variables in the roles' READMEs
	@$$(tools/venv)/bin/python tools/docs

images: ## Docker, the test bed's images and its name server
	@testbed/up

bench: ## figures: a run, also on ten hosts and with thousands of accounts; messages a second; memory; a search
	@testbed/up
	@PYTHONPATH=. $$(tools/venv)/bin/python bench/site
	@PYTHONPATH=. $$(tools/venv)/bin/python bench/messages
	@PYTHONPATH=. $$(tools/venv)/bin/python bench/accounts
	@PYTHONPATH=. $$(tools/venv)/bin/python bench/memory
	@bench/search
