# pocketvlm: `make` lists what can be done. Everything happens in .venv, which `make setup` makes on its own.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

BIN := .venv/bin
READY := .venv/.ready

# What `make export-android` exports, what for, and what it then asks (an empty IMAGE or PROMPT: the built-in ones).
MODEL := examples/reader/checkpoint
RECIPE := gptq-g32
BACKENDS := onnx executorch
IMAGE :=
PROMPT :=
# examples/reader/checkpoint is named reader: a folder called checkpoint says nothing.
NAME := $(notdir $(patsubst %/checkpoint,%,$(patsubst %/,%,$(MODEL))))-$(basename $(notdir $(RECIPE)))
BUNDLE := dist/android/$(NAME)
KOTLIN := build/android/pages
PICTURE := dist/android/picture.png
# What `make bench-device` measures BUNDLE on (another phone: adb:SERIAL; each: adb:all), and what it measures.
TARGET := adb
DEVICE := -p 512 -n 128 -d 0,512 -r 9
# Recipes read these from their environment: what stands in them is never parsed as shell.
export MODEL RECIPE BACKENDS IMAGE PROMPT TARGET
# Where it is set, each process compiles PyTorch anew: ExecuTorch's exporter takes 25 s to import instead of 4.
unexport PYTHONDONTWRITEBYTECODE

# What `make bench` exports and measures beside the built-in model (none: PRESETS=); make real-size has a large picture.
PRESETS := bluelm-v-0.5b bluelm-v-3b
BENCH := --image 384x768 -p 512,1920 -n 128 -d 0,512,2048 --pg 512,128 -r 3
# BASE is a checkout of what is compared with: git worktree add build/base origin/main; make bench-gate BASE=build/base
GATE_OPTIONS := --image 320x240 -p 256 -n 32 -t 1

.PHONY: help setup check test test-flaky test-lowest browser docs export-android demo devices farm-demo runner runner-package core aar api apk java apk-tools harnesses bench bench-gate bench-device clean

help: ## list the targets
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '  %-18s%s\n' "$$name" "$$what"; done
	@echo "Studies and long measurements: make -C studies lists them, make NAME runs one."

setup: $(READY) ## make .venv with everything, once (5 GB on Linux: PyTorch brings its CUDA libraries)
	@echo ".venv is ready"
$(READY): pyproject.toml constraints.txt setup.sh
	@bash setup.sh

check: $(READY) ## lint, format, types and who may import whom; writes nothing
	@echo "ruff";         $(BIN)/ruff check --quiet
	@echo "ruff format";  $(BIN)/ruff format --check --quiet --output-format concise
	@echo "mypy";         $(BIN)/mypy --no-error-summary; $(BIN)/mypy --no-error-summary docs examples studies tests
	@echo "lint-imports"; $(BIN)/lint-imports >.venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }

browser: # tests look at pages in it
	@bash setup.sh browser

java: # builds the Kotlin library, also in the tests
	@bash setup.sh java

apk-tools: # link, align and sign an APK, also in the tests
	@bash setup.sh apk

harnesses: $(READY) # tests run a bundle in them
	@bash setup.sh harnesses

test: $(READY) browser java apk-tools harnesses ## run all tests, or PYTEST='tests/runtime -x'; ends with how long each room's took
	@$(BIN)/python -m tests.support.suite $(PYTEST)

TIMES := 20
test-flaky: $(READY) ## the tests of device, bench and runtime TIMES=20 times in random order, with both cores kept busy (hours)
	@$(BIN)/python -m tests.support.flaky --times $(TIMES)

# What neither trains nor compiles: minutes.
QUICK := tests/bundle tests/core tests/images tests/machine tests/plan tests/questions tests/scenes tests/bench/report \
    tests/cli/test_console.py tests/cli/test_report.py tests/cli/test_run.py tests/export/onnx tests/runtime/test_vlm.py
test-lowest: $(READY) ## the quick tests with the lowest versions that pyproject.toml allows, in build/lowest (5 GB)
	@$(BIN)/uv venv --quiet --clear --python "$$(readlink -f $(BIN)/python)" build/lowest
	@$(BIN)/uv pip install --quiet --python build/lowest/bin/python --resolution lowest-direct \
	    --editable '.[export,executorch,litert,qnn,train,dev,docs]'
	@build/lowest/bin/python -m pytest -q -n auto -p no:cacheprovider $(QUICK)

docs: $(READY) java ## build the pages of docs/ into build/site: open index.html there
	@rm -rf $(KOTLIN); $(BIN)/python -m android_app.library.build --lenient pages
	@[ ! -d $(KOTLIN) ] || export KOTLIN_PAGES=$(KOTLIN); NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

export-android: $(READY) ## export MODEL (the built-in one) by RECIPE to dist/android/, then ask it about IMAGE
	@mkdir -p dist/android
	@$(BIN)/pocketvlm export "$$MODEL" --output $(BUNDLE) --recipe "$$RECIPE" $$(printf -- '--backend %s ' $$BACKENDS)
	@if grep -q '^ "vision": null' $(BUNDLE)/manifest.json; then set -- --prompt "$${PROMPT:-Hello, who are you?}"; else \
	    [ -n "$$IMAGE" ] || $(BIN)/python -c 'import sys; from pocketvlm.scenes import draw; \
	        draw("make", grids=((2, 2),), scenes=("receipt",)).image.save(sys.argv[1])' $(PICTURE); \
	    set -- --prompt "$${PROMPT:-What is the total?}" --image "$${IMAGE:-$(PICTURE)}"; printf '\nPicture:  %s' "$$4"; \
	fi; printf '\nQuestion: %s\n' "$$2"; \
	for engine in $$BACKENDS; do \
	    printf 'Answer of the engine %s:\n' "$$engine"; $(BIN)/pocketvlm run $(BUNDLE) --engine "$$engine" "$$@" --stats || exit; \
	done
	@printf '\nFor a device:\n'; $(BIN)/python -m android_app.runner.build --lenient package
	@printf '\nFor an app:\n'; $(BIN)/python -m android_app.library.build --lenient aar

demo: $(READY) ## chat with the exported bundle about IMAGE
	@[ -d $(BUNDLE) ] || { echo "error: $(BUNDLE) is not there yet: make export-android" >&2; exit 1; }
	@image=$$IMAGE; [ -n "$$image" ] || [ ! -f $(PICTURE) ] || grep -q '^ "vision": null' $(BUNDLE)/manifest.json || image=$(PICTURE); \
	$(BIN)/pocketvlm run $(BUNDLE) $${image:+--image "$$image"}

devices: $(READY) ## the attached phones, and what is wrong with them
	@$(BIN)/pocketvlm doctor --phones
farm-demo: $(READY) ## two nodes of a cluster on this machine, a fake phone on each, BUNDLE measured on both (a minute)
	@[ -d $(BUNDLE) ] || { echo "error: $(BUNDLE) is not there yet: make export-android" >&2; exit 1; }
	@$(BIN)/python -m tests.cluster.demo $(BUNDLE)
runner: $(READY) ## compile the native runner and libpocketvlm for this machine, into build/runner/native
	@$(BIN)/python -m android_app.runner.build native
runner-package: $(READY) ## the runner with all that a device needs, into dist/android/runner
	@$(BIN)/python -m android_app.runner.build package
aar: $(READY) java ## the Android library as a Maven repository with its pages, into dist/android
	@$(BIN)/python -m android_app.library.build aar
api: $(READY) java ## write the Kotlin library's public API to android_app/library/pocketvlm.api, which the tests hold it to
	@$(BIN)/python -m android_app.library.build api
apk: $(READY) java apk-tools ## the sample app as a signed APK, into dist/android (ONNX Runtime: 150 MB the first time)
	@$(BIN)/python -m android_app.library.build apk
core: java ## compile the Kotlin library (JDK 17, Maven), into build/android
	@mvn -B -q -ntp -f android_app/pom.xml -pl pocketvlm-core,pocketvlm-android -Dmaven.test.skip package
bench-device: $(READY) ## measure BUNDLE on the attached phone, a table here and JSON into build/bench (some minutes)
	@[ -d $(BUNDLE) ] || { echo "error: $(BUNDLE) is not there yet: make export-android" >&2; exit 1; }
	@mkdir -p build/bench; $(BIN)/pocketvlm bench $(BUNDLE) --target "$$TARGET" $(DEVICE) --save build/bench/device.json

bench: $(READY) ## measure the built-in model and the presets, tables and reports into bench/results (an hour)
	@$(BIN)/python -m studies.bench measure -- -p 512,1920 -n 128 -d 0,512,1920 --pg 512,128
	@for preset in $(PRESETS); do $(BIN)/python -m studies.bench measure --preset $$preset -- $(BENCH); done
bench-gate: $(READY) ## hold this checkout to another, BASE=DIR: two models exported by each, in turns
	@$(BIN)/python -m studies.bench gate --base "$(BASE)" -- $(GATE_OPTIONS)

clean: ## remove .venv, caches and what was built
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

include studies/Makefile
