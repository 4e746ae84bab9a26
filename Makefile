# `make` lists what there is. Everything happens in .venv, which is made once, and again when requirements.txt changes.
.DEFAULT_GOAL := help
.PHONY: help demo check test test-slow test-kills bench lint export stages lab
BIN := .venv/bin
PYTHON ?= $(or $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done),python3)

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name about; do printf '  make %-11s %s\n' "$$name" "$$about"; done

.venv/ready: requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "synthnb needs Python 3.11 or newer: apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) .ci/venv.py

demo: .venv/ready  ## run the first study on both embedded testbeds and print the answers
	@$(BIN)/synthnb run synthetic_ratio --on digits-wild --on digits

lab: .venv/ready  ## open the tour in JupyterLab
	@$(BIN)/jupyter lab nbs/tour.ipynb

check: lint  ## lint, export without diff, and the tests that changed files concern: under a minute
	@$(BIN)/python tests/changed.py

test: lint  ## lint, then every test but the slow ones, with coverage; the slowest are listed at the end
	@$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term --durations=15

test-slow: .venv/ready  ## the tests that take minutes
	@$(BIN)/python -m pytest -m slow

test-kills: .venv/ready  ## kill -9 at random, fifty times in a study and thrice in pools of 5,000 images: nothing is lost
	@$(BIN)/python -m pytest -m slow tests/test_kills.py

bench: .venv/ready  ## measure generation side by side with plain diffusers, into build/
	@mkdir -p build && $(BIN)/papermill --cwd . nbs/bench/generation.ipynb build/generation.ipynb

lint: .venv/ready  ## ruff over code, tests and notebooks
	@$(BIN)/ruff check .

export: .venv/ready  ## write synthnb/ and the file map from the notebooks, and clean these
	@PATH="$(CURDIR)/$(BIN):$$PATH" && nbdev_export && nbdev_clean && python tests/file_map.py

stages: .venv/ready  ## record the stages' code: after a new version, or a change that alters no result
	@$(BIN)/python tests/stage_code.py
