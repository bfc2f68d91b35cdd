# make help lists the targets. Everything happens in .venv, which `make` makes; PYTHON chooses its interpreter.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install
CPP     = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(VENV)/.installed build  ## train LeNet on Fashion-MNIST with the cpu backend, then compare its layers with torch's
	$(BIN)/cnnext train --model lenet --backend cpu --epochs 10 --seed 0 --plot runs/lenet.png --checkpoint runs/lenet.pt
	$(BIN)/cnnext compare --model lenet

test: $(VENV)/.installed-dev build  ## run the tests, all but the slow ones; ARGS="-k pool" reaches pytest
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed-dev build  ## run the tests marked slow, all but the exhaustive ones
	$(BIN)/python -m pytest -m "slow and not exhaustive" $(ARGS)

test-exhaustive: $(VENV)/.installed-dev build  ## run what takes an hour: Triton's compiler over every config and target
	$(BIN)/python -m pytest -m exhaustive $(ARGS)

test-gpu: $(VENV)/.installed-dev build  ## run the tests of the ops on a GPU, then under compute-sanitizer
	$(BIN)/python tests/gpu.py $(ARGS)

bench: $(VENV)/.installed build  ## measure layers, networks and calls beside PyTorch's in a quarter of an hour, and report
	$(BIN)/cnnext bench --output runs/bench.json $(ARGS)
	$(BIN)/cnnext report runs/bench.json --output runs/bench --tables

bench-ops: $(VENV)/.installed-dev build  ## the layers of single ops by pytest-benchmark; ARGS="bench/bench_conv2d.py"
	$(BIN)/python -m pytest $(or $(ARGS),$(wildcard bench/bench_*2d.py bench/bench_batch_norm.py bench/bench_conv_bn_relu.py))

kernels: $(VENV)/.installed-dev build  ## measure what needs no GPU of the CUDA kernels: bench/results/kernels.md
	$(BIN)/python bench/kernels.py

lint: $(VENV)/.installed-dev  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(VENV)/.installed-dev  ## put every file into the style that lint asks for
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CPP)

build: $(VENV)/.installed  ## compile what changed in the C++ sources
	cd cnnext && $(abspath $(BIN))/python -m _build

wheel: $(VENV)/.installed  ## make a wheel with code for every GPU architecture, in dist/; it fails without nvcc
	CNNEXT_CUDA=$${CNNEXT_CUDA:-1} \
	TORCH_CUDA_ARCH_LIST="$$(cd cnnext && $(abspath $(BIN))/python -c 'from _build.architectures import WHEEL; print(WHEEL)')" \
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

clean:  ## remove what was built; the environment and the data stay
	rm -rf build dist *.egg-info cnnext/*.so .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "cnnext needs Python 3.10 or newer: make PYTHON=python3.12")'
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "the venv module is missing: apt install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	touch $@

# Without build isolation, so that an environment that has everything needs no network.
$(VENV)/.installed: $(VENV)/.made setup.py pyproject.toml
	$(PIP) "torch>=2.10" "setuptools>=77" ninja
	cd cnnext && $(abspath $(BIN))/python -m _build
	$(PIP) --quiet --no-build-isolation -e ".[plot]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --quiet --no-build-isolation -e ".[plot,dev]"
	touch $@

.PHONY: help demo bench bench-ops kernels test test-slow test-exhaustive test-gpu lint format build wheel clean
.DEFAULT_GOAL := help
