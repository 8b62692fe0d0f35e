# `make` lists what there is. PYTHON picks the interpreter (3.11 to 3.14), CONFIG the recipe, ARGS anything more.
PYTHON ?= python3
CONFIG ?= configs/pong.toml
ARGS ?=
RUNS ?= runs
OUT ?= results/gpu
VENV := .venv
BIN := $(VENV)/bin
EACH_CORE := --numprocesses=auto --dist=worksteal
unexport MPLBACKEND # a notebook's, which need not be installed here
gpu-report: export PYTHONPATH := .:$(PYTHONPATH)

.DEFAULT_GOAL := help
.PHONY: help setup doom notebook lesson train eval play toy tensorboard test test-gpu check smoke torture soak bench verify-machine gpu-report results plots study clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo '  e.g. make train CONFIG=configs/karpathy.toml ARGS="--seed 3"'

setup: $(VENV)/.ready ## create .venv with exact package versions

# Redone only when the lock or pyproject changes.
$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 14) else f"Python 3.11 to 3.14 is needed, this is {v[0]}.{v[1]}; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

doom: $(VENV)/.doom ## install ViZDoom too; `make train CONFIG=configs/doom_…` does so by itself

notebook: $(VENV)/.notebook ## install JupyterLab too; `make lesson` does so by itself

$(VENV)/.doom $(VENV)/.notebook: $(VENV)/.%: requirements-%.lock $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

lesson: notebook ## the lesson, in a browser: notebooks/pong_from_pixels.ipynb
	$(BIN)/jupyter lab notebooks/pong_from_pixels.ipynb $(ARGS)

train: setup $(if $(findstring doom,$(CONFIG)),doom) ## learn Pong: CONFIG=configs/pong.toml ARGS="--seed 3"
	$(BIN)/python -m pong train "$(CONFIG)" $(ARGS)

eval: setup ## play fresh games with frozen weights, sampled and greedily: RUN=runs/… ARGS="--episodes 20"
	$(BIN)/python -m pong eval "$(RUN)" $(ARGS)

play: setup ## film one game, or ARGS="--terminal": RUN=runs/…, default: pretrained/pong
	$(BIN)/python -m pong play "$(or $(RUN),pretrained)" $(ARGS)

toy: setup ## the log-derivative trick with numbers: ARGS="T3"
	$(BIN)/python -m pong toy $(ARGS)

tensorboard: setup ## watch the runs in a browser
	$(BIN)/tensorboard --logdir "$(RUNS)" $(ARGS)

test: setup ## the whole test suite on the CPU, on all cores: ARGS="tests/test_losses.py tests/test_toy.py"
	$(BIN)/python -m pytest $(EACH_CORE) $(ARGS)

test-gpu: setup ## the tests that need a GPU
	$(BIN)/python -m pytest -m gpu -rs $(ARGS)

check: doom ## lint, format, types, tests (installs ViZDoom, whose types mypy needs)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(EACH_CORE) $(ARGS)

smoke: setup ## two tiny updates of real Pong; metrics.csv must have a row for each
	folder=$$(mktemp -d) && $(BIN)/python -m pong train configs/pong.toml --num-envs 4 --horizon 64 --total-steps 500 \
		--device cpu --run-dir $$folder/smoke $(ARGS) && test $$(wc -l < $$folder/smoke/metrics.csv) -eq 3 && rm -r $$folder

torture: setup ## stop three small runs 100 times each, in every way, and compare them with uninterrupted runs
	PONG_STOPS=100 $(BIN)/python -m pytest $(EACH_CORE) tests/test_reliability.py -k any_moment -v $(ARGS)

soak: setup ## train for half an hour and watch memory and file handles: ARGS="--minutes 3"
	$(BIN)/python scripts/soak.py $(ARGS)

bench: setup $(if $(findstring doom,$(ARGS)),doom) ## training against the emulators' own speed and the 2016 loop: ARGS="--json FILE"
	$(BIN)/python scripts/bench.py $(ARGS)

verify-machine: setup ## compare the compiled Pong with ale-py, 20 million frames with fresh seeds: ARGS="--frames 100", in thousands
	$(BIN)/python scripts/verify_machine.py $(ARGS)

gpu-report: ## on a GPU machine, with its own python3: tests, benchmark, two trainings into OUT=results/gpu; ten minutes
	mkdir -p "$(OUT)"
	-$(PYTHON) -m pytest -m gpu -rs -p no:cacheprovider > "$(OUT)/gpu-tests.txt"; tail -1 "$(OUT)/gpu-tests.txt"
	$(PYTHON) scripts/bench.py --rounds 2 --seconds 1 --configs pong pong_conv_plain --json "$(OUT)/bench.json"
	for recipe in pong_conv_plain pong_expert; do \
		timeout --signal=INT 150 $(PYTHON) -m pong train configs/$$recipe.toml --stop-at-mean100 18 --run-dir "$(OUT)/$$recipe" $(ARGS); \
		$(PYTHON) -m pong eval "$(OUT)/$$recipe" --episodes 32 --json "$(OUT)/$$recipe/eval.json" || exit 1; \
	done

results: doom ## run what is missing from results/, then make tables and pictures
	test -f results/bench.json || $(BIN)/python scripts/bench.py --json results/bench.json
	test -f results/machine/verify.json || $(BIN)/python scripts/verify_machine.py
	test -f results/ceiling/rallies.json || $(BIN)/python scripts/research/rallies.py
	$(BIN)/python scripts/grid.py recipes --only pong pong_plain pong_conv_plain --at-once 1 # since their times count
	$(BIN)/python scripts/grid.py recipes ceiling far ladder --at-once 2
	$(BIN)/python scripts/grid.py classroom doom
	$(BIN)/python scripts/report.py

plots: setup ## make the tables and pictures of results/ again, and the pictures of docs/
	$(BIN)/python scripts/plot_machine.py
	$(BIN)/python scripts/plot_architecture.py
	$(BIN)/python scripts/report.py

study: setup $(if $(findstring doom,$(STUDY)),doom) ## train what is missing of a study, each change with every seed; hours: STUDY=ladder
	$(BIN)/python scripts/grid.py $(or $(STUDY),ladder) $(ARGS)
	$(BIN)/python scripts/report.py

clean: ## remove .venv and caches, never runs/
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
