# `make` lists the targets. PYTHON picks the interpreter (3.11 to 3.14), CONFIG the recipe, ARGS adds arguments.
PYTHON ?= python3
ARGS ?=
# Names reach the shell as they are, in its environment, so that no character in them is read as a command.
override CONFIG := $(or $(value CONFIG),$(if $(findstring --resume,$(ARGS)),,configs/pong.toml))
override RUN := $(value RUN)
override RUNS := $(or $(value RUNS),runs)
override STUDY := $(or $(value STUDY),ladder)
override OUT := $(or $(value OUT),results/gpu)
export CONFIG RUN RUNS STUDY OUT
DOOM := $(if $(findstring doom,$(CONFIG) $(RUN) $(STUDY) $(ARGS)),doom)
VENV := .venv
BIN := $(VENV)/bin
# TensorBoard shows these charts first: the mean of 100 games, and steps per second.
CARD := %7B%22plugin%22:%22scalars%22,%22tag%22:%22charts/
PINNED := pinnedCards=%5B$(CARD)episodic_return_mean100%22%7D,$(CARD)SPS%22%7D%5D
EACH_CORE := --numprocesses=auto --dist=worksteal
unexport MPLBACKEND # a notebook sets it to a package that may be missing here
gpu-report: export PYTHONPATH := .:$(PYTHONPATH)

.DEFAULT_GOAL := help
.PHONY: help setup doom notebook lesson docs page train eval play toy tensorboard test test-gpu check smoke torture soak bench verify-machine gpu-report results plots study clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo '  e.g. make train CONFIG=configs/karpathy.toml ARGS="--seed 3"'

setup: $(VENV)/.ready ## create .venv with exact package versions

# Runs again only when the lock or pyproject changes.
$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 14) else f"Python 3.11 to 3.14 is needed, this is {v[0]}.{v[1]}; try: make PYTHON=python3.12")'
	@echo 'installing PyTorch and the rest into $(VENV), once: 2 GB on a CPU machine, 6 GB with CUDA; takes minutes'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

doom: $(VENV)/.doom ## also install ViZDoom; `make train CONFIG=configs/doom_…` does so by itself

notebook: $(VENV)/.notebook ## also install JupyterLab; `make lesson` does so by itself

$(VENV)/.doom $(VENV)/.notebook $(VENV)/.docs: $(VENV)/.%: requirements-%.lock $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

lesson: notebook ## open the first notebook of the lesson in a browser; the others are beside it in notebooks/
	$(BIN)/jupyter lab --notebook-dir=. $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/1_two_arms_and_the_log.ipynb $(ARGS)

docs: $(VENV)/.docs ## build docs/ as a site, build/docs/index.html (installs MkDocs)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(ARGS)

page: setup ## build the page in the browser, web/, and open it: ARGS="--port 8001"
	$(BIN)/python scripts/page.py --serve $(ARGS)

train: setup $(DOOM) ## train a policy: CONFIG=pong ARGS="--seed 3" or "--seeds 1-16"; or resume a run: ARGS="--resume runs/…"
	$(BIN)/python -m pong train $(if $(CONFIG),"$$CONFIG") $(ARGS)

eval: setup $(DOOM) ## play fresh games with frozen weights, sampled and greedily: RUN=runs/…, default: newest; ARGS="--episodes 20"
	$(BIN)/python -m pong eval $(if $(RUN),"$$RUN") $(ARGS)

play: setup $(DOOM) ## save a video of one game, or show it live: ARGS="--terminal"; RUN=runs/…, default: newest, else a trained agent
	$(BIN)/python -m pong play $(if $(RUN),"$$RUN") $(ARGS)

toy: setup ## show the log-derivative trick with numbers: ARGS="T3"
	$(BIN)/python -m pong toy $(ARGS)

tensorboard: setup ## show the curves of all runs in a browser: RUNS=runs
	@echo 'open http://localhost:6006/?$(PINNED) for the curves to watch first' >&2
	$(BIN)/tensorboard --logdir "$$RUNS" $(ARGS)

test: setup ## run the test suite on all CPU cores: ARGS="tests/test_losses.py tests/test_toy.py"
	$(BIN)/python -m pytest $(EACH_CORE) $(ARGS)

test-gpu: setup ## run the tests that need a GPU
	$(BIN)/python -m pytest -m gpu -rs $(ARGS)

check: doom ## check lint, format, types and tests (installs ViZDoom, whose types mypy needs)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(EACH_CORE) $(ARGS)

smoke: setup ## run two tiny updates of real Pong; metrics.csv must have a row for each
	folder=$$(mktemp -d) && $(BIN)/python -m pong train configs/pong.toml --num-envs 4 --horizon 64 --total-steps 500 \
		--device cpu --run-dir $$folder/smoke $(ARGS) && test $$(wc -l < $$folder/smoke/metrics.csv) -eq 3 && rm -r $$folder

torture: setup ## stop three small runs 100 times each, in every way, and compare each with an uninterrupted run
	PONG_STOPS=100 $(BIN)/python -m pytest $(EACH_CORE) tests/test_reliability.py -k any_moment -v $(ARGS)

soak: setup ## train for half an hour and watch memory and file handles: ARGS="--minutes 3"
	$(BIN)/python scripts/soak.py $(ARGS)

bench: setup $(DOOM) ## compare the speed of training with the bare emulators and the 2016 loop: ARGS="--json FILE"
	$(BIN)/python scripts/bench.py $(ARGS)

verify-machine: setup ## compare the compiled Pong with ale-py on 20 million frames, or fewer: ARGS="--frames 100" (thousand)
	$(BIN)/python scripts/verify_machine.py $(ARGS)

gpu-report: ## test and measure a GPU in ten minutes: PYTHON=python3 OUT=results/gpu
	mkdir -p "$$OUT"
	-$(PYTHON) -m pytest -m gpu -rs -p no:cacheprovider > "$$OUT/gpu-tests.txt"; tail -1 "$$OUT/gpu-tests.txt"
	$(PYTHON) scripts/bench.py --rounds 2 --seconds 1 --configs pong pong_conv_plain --json "$$OUT/bench.json"
	for recipe in pong_conv_plain pong_expert; do \
		timeout --signal=INT 150 $(PYTHON) -m pong train configs/$$recipe.toml --stop-at-mean100 18 --run-dir "$$OUT/$$recipe" $(ARGS); \
		$(PYTHON) -m pong eval "$$OUT/$$recipe" --episodes 32 --json "$$OUT/$$recipe/eval.json" || exit 1; \
	done

results: doom ## run whatever is missing from results/, then make the tables and pictures
	test -f results/bench.json || $(BIN)/python scripts/bench.py --json results/bench.json
	test -f results/machine/verify.json || $(BIN)/python scripts/verify_machine.py
	test -f results/ceiling/rallies.json || $(BIN)/python scripts/research/rallies.py
	test -f results/ceiling/planner.json || $(BIN)/python scripts/research/planner.py --games 100
	$(BIN)/python scripts/grid.py recipes --only pong pong_plain pong_conv_plain --at-once 1 # alone, because their times are published
	$(BIN)/python scripts/grid.py recipes ceiling far ladder classroom doom
	$(BIN)/python scripts/report.py

plots: setup ## redraw the tables and pictures of results/ and docs/
	$(BIN)/python scripts/plot_docs.py
	$(BIN)/python scripts/annotate.py
	$(BIN)/python scripts/report.py

study: setup $(DOOM) ## train the missing runs of a study, which takes hours: STUDY=ladder
	$(BIN)/python scripts/grid.py $$STUDY $(ARGS)
	$(BIN)/python scripts/report.py

clean: ## remove .venv and caches, never runs/
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find pong -path '*/__pycache__/*.nb[ic]*' -delete
