# Every target installs what it needs by itself; what is installed already is not installed again.
#
#   .venv        the extras that work together (base, cpu, tensorflow, train, dev)
#   .venv-NAME   an extra that is heavy or does not go with the others, beside dev alone: `make .venv-gpu/.stamp`
#
# A stamp file in the environment says that an extra is installed as pyproject.toml and constraints.txt ask.

PYTHON ?= python3
URL ?= http://127.0.0.1:8000
VENV := .venv/bin

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.SECONDARY:
.PHONY: help run test test-all check bench bench-large bench-swap bench-memory bench-rollout load protos clean

help: ## Show this list
	@echo "Usage: make TARGET [ARGS=\"more arguments for its command\"] [PYTHON=$(PYTHON)]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' Makefile

run: .venv/.stamp-cpu ## Serve model_repo on 127.0.0.1: REST on port 8000, gRPC on 8001
	@$(VENV)/serving start model_repo $(ARGS)

test: .venv/.stamp-all ## Run the tests, without those marked slow
	$(VENV)/python -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

test-all: .venv/.stamp-all ## Run all tests
	$(VENV)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: .venv/.stamp-dev ## Lint, formatting, types and the ranks of the modules
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy
	$(VENV)/lint-imports

bench: .venv/.stamp-cpu .venv/.stamp-accelerate .venv/.stamp-dev ## Measure requests/s and server CPU per request
	$(VENV)/python -m loadtests.bench $(ARGS)

bench-large: .venv/.stamp-cpu .venv/.stamp-dev ## Measure large inputs, and the delay they give to small ones
	$(VENV)/python -m loadtests.large $(ARGS)

bench-swap: .venv/.stamp-cpu .venv/.stamp-accelerate .venv/.stamp-dev ## Measure one model while another loads and swaps
	$(VENV)/python -m loadtests.swap $(ARGS)

bench-memory: .venv/.stamp-cpu .venv/.stamp-accelerate .venv/.stamp-dev ## Measure what unloaded models leave behind
	$(VENV)/python -m loadtests.memory $(ARGS)

bench-rollout: .venv/.stamp-cpu .venv/.stamp-dev ## Measure shares, stickiness and rollback, and what a shadow costs
	$(VENV)/python -m loadtests.rollout $(ARGS)

load: .venv/.stamp-dev ## Load a running server (URL=http://host:port) with locust for 30 s
	$(VENV)/python -m locust --locustfile loadtests/locustfile.py --headless --only-summary \
		--host "$(URL)" --users 16 --spawn-rate 16 --run-time 30s $(ARGS)

protos: .venv/.stamp-dev ## Compile protos/*.proto into the descriptor set that the server loads
	$(VENV)/python -m grpc_tools.protoc --proto_path=protos --include_imports \
		--descriptor_set_out=serving/protocols/descriptors/all.binpb protos/*.proto

clean: ## Remove the environments, caches and build output (not runs/ and model_repo/)
	rm -rf .venv .venv-* build dist *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.stamp-%: pyproject.toml constraints.txt .venv/pyvenv.cfg
	@echo "Installing .[$*] into .venv"
	@$(VENV)/python -m pip install -qq --editable ".[$*]" --constraint constraints.txt
	@touch $@

.venv-%/.stamp: pyproject.toml constraints.txt .venv-%/pyvenv.cfg
	@echo "Installing .[dev,$*] into .venv-$*"
	@.venv-$*/bin/python -m pip install -qq --editable ".[dev,$*]" --constraint constraints.txt
	@touch $@

%/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "error: $(PYTHON) is not Python 3.11 or newer; name another: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Making $* with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $*
