# Everything is installed in $(VENV); a stamp in it says what is there, so a second run is quick.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Metadata that an sdist left in the source tree would be found before those installed.
INSTALL := rm -rf convcore.egg-info && $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable

CREATED := $(VENV)/.created-by-$(notdir $(PYTHON))
KERNELS := $(shell find backends -name '*.[ch]' -not -name engine.c -o -name '*.cl')
# A change in any of these means that the compiled modules or the metadata are out of date.
BUILD_INPUTS := pyproject.toml setup.py bench/peaks.pyx $(shell find backends -name '*.py[xd]' -o -name '*.[ch]' -not -name engine.c)
comma := ,
# PyPI has an OpenCL driver for this platform only.
OPENCL := $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),$(comma)opencl)

say = @printf '\033[1m==> %s\033[0m\n' '$(1)'

.PHONY: help demo test conformance lint bench bench-cpu bench-opencl check-address check-opencl check-thread clean counts report test-neon

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12
	@echo 'PYTHON=python3.12 chooses the interpreter of the environment in $(VENV).'

demo: $(VENV)/.demo ## install what is needed, then run the main job on a photograph
	@$(BIN)/convcore demo

test: lint ## lint, types, layering, unit tests and the conformance kit over every backend
	$(call say,Running the tests and the conformance kit)
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -rs -m 'not alone' --numprocesses 2 --dist worksteal
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -rs -m alone

conformance: $(VENV)/.test ## the whole conformance kit over every backend, a table for each: several minutes
	@for backend in numpy cpu opencl; do $(BIN)/convcore test $$backend || exit 1; done

lint: $(VENV)/.test ## lint, types and layering only
	$(call say,Checking style and spelling)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@PATH="$(abspath $(BIN)):$$PATH" cython-lint backends bench  # it looks for pycodestyle there
	@$(BIN)/clang-format --dry-run --Werror $(KERNELS)
	@$(BIN)/codespell
	$(call say,Checking types and layering)
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/.bench ## every benchmark beside what people use today: many minutes; ARGS="-k images --bench-batch 1"
	$(call say,Running the benchmarks)
	@$(BIN)/python -m pytest bench --benchmark-columns=median,iqr,rounds --benchmark-sort=name -rs $(ARGS)

report: $(VENV)/.test ## the README's table and plot, from the results in bench/results
	@$(BIN)/python -m convcore_bench.readme

counts: $(VENV)/.test ## store the instruction counts of this compiler and this Python, which `make test` compares with
	@$(BIN)/python -m convcore_bench.instructions --record

bench-cpu: $(VENV)/.bench ## the CPU engine against PyTorch, layer by layer; ARGS=--quick for a short run
	@$(BIN)/python bench/cpu.py $(ARGS)

test-neon: ## the NEON micro-kernels, compiled by aarch64-linux-gnu-gcc and run under qemu-aarch64
	@command -v aarch64-linux-gnu-gcc qemu-aarch64 >/dev/null || \
	    { echo 'NEON needs a cross compiler and an emulator (Debian: apt install gcc-aarch64-linux-gnu qemu-user).' >&2; exit 2; }
	@mkdir -p build
	@aarch64-linux-gnu-gcc -O2 -static -I backends/convcore_cpu/kernels -o build/check_rows \
	    tests/rows/check_rows.c backends/convcore_cpu/kernels/isa*.c
	@qemu-aarch64 build/check_rows

bench-opencl: $(VENV)/.bench ## the OpenCL engine on its device, beside the CPU engine and CUDA; ARGS="--device NAME"
	@$(BIN)/python bench/opencl.py $(ARGS)

check-opencl: $(VENV)/.test ## the OpenCL kernels under oclgrind: no access out of bounds, no race, nothing read that was never written
	@command -v oclgrind > /dev/null || { echo 'check-opencl needs oclgrind; on Debian: apt-get install oclgrind' >&2; exit 2; }
	@OCLGRIND_BUILD_OPTIONS=-cl-opt-disable PYOPENCL_CTX=Oclgrind \
		oclgrind --max-wgsize 256 --local-mem-size 49152 --data-races --uninitialized --log $(VENV)/oclgrind.log \
		$(BIN)/python tests/check_opencl.py $(ARGS)

check-address: $(VENV)/.test ## the CPU engine under AddressSanitizer, UndefinedBehaviorSanitizer and Cython's index checks, by the quick kit
	@.ci/sanitize address $(ARGS)

check-thread: $(VENV)/.test ## the CPU engine under ThreadSanitizer, by the quick kit
	@.ci/sanitize thread $(ARGS)

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) build dist convcore.egg-info convcore-demo.png
	find backends bench -name '*.so' -delete

$(CREATED):
	@.ci/prerequisites $(PYTHON)
	$(call say,Making a Python environment in $(VENV))
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: $(CREATED) $(BUILD_INPUTS)
	$(call say,Building convcore and installing what the demo needs: a few minutes the first time)
	@$(INSTALL) '.[demo$(OPENCL)]'
	@touch $@

$(VENV)/.test: $(CREATED) $(BUILD_INPUTS)
	$(call say,Building convcore and installing what the tests need: a few minutes the first time)
	@$(INSTALL) '.[demo,lint,test$(OPENCL)]'
	@touch $(VENV)/.demo $@

$(VENV)/.bench: $(CREATED) $(BUILD_INPUTS)
	$(call say,Building convcore and installing the libraries to compare with: a few minutes the first time)
	@$(INSTALL) '.[bench$(OPENCL)]'
	@touch $@
