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
.PHONY: help run test test-all check bench bench-large bench-swap bench-memory bench-rollout
.PHONY: bench-compare bench-efficiency bench-curve bench-referee bench-low-rate bench-overload bench-mixed
.PHONY: bench-ray simulate load load-smoke load-step load-soak load-chaos hostile monitor test-ray deploy-rules protos clean

help: ## Show this list
	@echo "Usage: make TARGET [ARGS=\"more arguments for its command\"] [PYTHON=$(PYTHON)]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile

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

bench-compare: .venv/.stamp-cpu .venv/.stamp-dev .venv/.stamp-bench ## Measure this server beside Triton and six Python servers (17 minutes)
	$(VENV)/python -m loadtests.compare $(ARGS)

bench-efficiency: .venv/.stamp-cpu .venv/.stamp-dev .venv/.stamp-bench ## Measure the highest rate within a latency bound, by what the model alone can do
	$(VENV)/python -m loadtests.openloop efficiency $(ARGS)

bench-curve: .venv/.stamp-cpu .venv/.stamp-dev .venv/.stamp-bench ## Plot latency against rate, beside Triton
	$(VENV)/python -m loadtests.openloop curve $(ARGS)

bench-referee: .venv/.stamp-cpu .venv/.stamp-dev .venv/.stamp-bench ## Let MLCommons' LoadGen measure
	$(VENV)/python -m loadtests.openloop referee $(ARGS)

bench-low-rate: .venv/.stamp-cpu .venv/.stamp-dev .venv/.stamp-bench ## Measure what the server adds to a single request, and its CPU when idle
	$(VENV)/python -m loadtests.openloop low-rate $(ARGS)

bench-overload: .venv/.stamp-cpu .venv/.stamp-dev .venv/.stamp-bench ## Measure answers in time at twice the load that can be served
	$(VENV)/python -m loadtests.openloop overload $(ARGS)

bench-mixed: .venv/.stamp-cpu .venv/.stamp-dev .venv/.stamp-bench ## Measure what large requests do to small ones
	$(VENV)/python -m loadtests.openloop mixed $(ARGS)

simulate: .venv/.stamp-dev .venv/.stamp-bench ## Replay traffic on the batcher's policies, without a model
	$(VENV)/python -m loadtests.simulate $(or $(ARGS),poisson:2000)

load: .venv/.stamp-dev ## Load a running server (URL=http://host:port) with locust for 30 s
	$(VENV)/python -m locust --locustfile loadtests/locustfile.py --headless --only-summary \
		--host "$(URL)" --users 16 --spawn-rate 16 --run-time 30s $(ARGS)

load-smoke: .venv/.stamp-cpu .venv/.stamp-dev .venv/.stamp-bench ## Ask a server over every protocol and check the answers (20 s)
	$(VENV)/python -m loadtests.locust smoke $(ARGS)

load-step: .venv/.stamp-cpu .venv/.stamp-dev .venv/.stamp-bench ## More users step by step, with a report (3 minutes)
	$(VENV)/python -m loadtests.locust step $(ARGS)

load-soak: .venv/.stamp-cpu .venv/.stamp-dev .venv/.stamp-bench ## An hour of mixed traffic with a swap every minute
	$(VENV)/python -m loadtests.soak $(ARGS)

load-chaos: .venv/.stamp-cpu .venv/.stamp-dev .venv/.stamp-bench ## Kill and swap everything under load, and count every request (2 minutes)
	$(VENV)/python -m loadtests.chaos $(ARGS)

hostile: .venv/.stamp-cpu .venv/.stamp-dev .venv/.stamp-bench ## Attack a server in 27 ways, and look at an honest client beside (45 minutes)
	$(VENV)/python -m loadtests.hostile $(ARGS)

monitor: .venv/.stamp-cpu .venv/.stamp-dev .venv/.stamp-remote .venv/.stamp-bench ## Stage incidents under a real Prometheus (6 minutes; needs Debian's prometheus)
	$(VENV)/python -m loadtests.monitor $(ARGS)

test-ray: .venv-ray/.stamp-all ## Test the Ray application on clusters of several nodes (5 minutes)
	.venv-ray/bin/python -m pytest tests/deploy/test_ray.py tests/deploy/test_ray_files.py tests/deploy/test_ray_parts.py $(ARGS)

bench-ray: .venv-ray/.stamp-all ## Measure what Ray adds to a request
	.venv-ray/bin/python -m deploy.ray.measure --json runs/ray-measure.json $(ARGS)

deploy-rules: ## Write the alert rules as the Prometheus operator takes them
	cd deploy/kubernetes/components/monitoring && \
		(cat prometheusrule.head; sed '/./s/^/  /' ../../../prometheus/rules.yaml) > prometheusrule.yaml

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

.venv-ray/.stamp-all: pyproject.toml constraints.txt .venv-ray/pyvenv.cfg
	@echo "Installing .[clients,cpu,dev,ray,remote] into .venv-ray"
	@.venv-ray/bin/python -m pip install -qq --editable ".[clients,cpu,dev,ray,remote]" --constraint constraints.txt
	@touch $@

%/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "error: $(PYTHON) is not Python 3.11 or newer; name another: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Making $* with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $*
