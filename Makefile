# `make demo` and `make test` need python3 and nothing else; `make help` says what there is.

PYTHON3 ?= python3
PORT ?= 8888
IP ?= 127.0.0.1
ARGS ?=

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Jupyter refuses to run as root, which is who one is in most containers, unless told that it is meant
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.DEFAULT_GOAL := help
.PHONY: help setup demo train-demo notebooks test test-slow test-gpu test-multi-gpu test-browser lab web api lint format lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 22

setup: ## make .venv hold what requirements.lock says; every other target does this first
	@$(PYTHON3) .ci/environment.py

demo: setup ## a sentence and a voice become a talking avatar, on any CPU, in runs/demo
	$(BIN)/python -m wanavatar_lab.cli.run_notebook notebooks/05_pipeline.ipynb runs/demo/05_pipeline.ipynb \
		-p profile pocket -p interactive False $(ARGS)

notebooks: setup ## every notebook by papermill on pocket, as it is and with other parameters; some minutes
	CUDA_VISIBLE_DEVICES= $(PYTEST) tests/notebooks/every_notebook.py --timeout 1200 $(ARGS)

train-demo: setup ## a LoRA learns a drawn person's lips, on any CPU in minutes, in runs/train-demo
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m training.pocket.train_demo --run runs/train-demo $(ARGS)

# Processes that tests start find modules compiled, also where the environment turns that off.
test test-slow: export PYTHONDONTWRITEBYTECODE :=
test: setup ## the suite, the same on every machine: no GPU, no network, no browser
	CUDA_VISIBLE_DEVICES= $(PYTEST) -n 2 --dist worksteal -m "not chromium and not slow" $(ARGS)

test-slow: setup ## what takes long: several processes in a run, compilers, more of the models that ship
	CUDA_VISIBLE_DEVICES= $(PYTEST) -n 2 --dist worksteal -m slow $(ARGS)

test-gpu: setup ## what needs one NVIDIA GPU
	$(PYTEST) -m "gpu and not multi_gpu" --need gpu $(ARGS)

test-multi-gpu: setup ## what needs two NVIDIA GPUs or more
	$(PYTEST) -m multi_gpu --need multi_gpu $(ARGS)

test-browser: setup ## what needs Chromium
	$(PYTEST) -m chromium --need chromium $(ARGS)

# A parent folder shows files outside of the repository too. The page serves only what voila.json lists, from here.
lab: export WANAVATAR_SERVER_ROOT ?= $(CURDIR)
web: export WANAVATAR_SERVER_ROOT := $(CURDIR)

# Lab's settings unless one has one's own: it does not ask whether it may fetch news from elsewhere
lab: export JUPYTER_CONFIG_PATH := $(CURDIR)/wanavatar_lab/ui/lab_config:$(JUPYTER_CONFIG_PATH)
lab: setup ## the notebooks in JupyterLab; PORT=8888, IP=127.0.0.1
	@echo "JupyterLab listens on $(IP) and asks for a token: open the address with ?token= that it prints."
	$(BIN)/python -m jupyterlab --ip=$(IP) --port=$(PORT) --no-browser $(AS_ROOT) \
		--ServerApp.root_dir="$(WANAVATAR_SERVER_ROOT)" \
		--LabApp.default_url="/lab/tree/$(patsubst $(WANAVATAR_SERVER_ROOT)/%,%,$(CURDIR)/notebooks/00_check.ipynb)" \
		--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(ARGS)

web: export JUPYTER_PATH := $(CURDIR)/wanavatar_lab/ui/voila_templates:$(JUPYTER_PATH)
web: setup ## the same widgets as one page, by Voilà; PORT=8888, IP=127.0.0.1
	$(BIN)/python -m wanavatar_lab.ui.web notebooks/app.ipynb --template=wanavatar --Voila.ip=$(IP) --port=$(PORT) --no-browser $(ARGS)

api: setup ## the REST service for scripts and front ends; PORT=8000, IP=127.0.0.1, ARGS="--profile pocket"
	$(BIN)/python -m wanavatar_lab serve --host=$(IP) --port=$(if $(filter file,$(origin PORT)),8000,$(PORT)) $(ARGS)

NOTEBOOKS := $(wildcard notebooks/*.ipynb)

lint: setup ## ruff, mypy, and no outputs in a committed notebook
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(NOTEBOOKS),$(BIN)/nbstripout --verify $(NOTEBOOKS))

format: setup ## put the code into ruff's form, and take outputs out of the notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(NOTEBOOKS),$(BIN)/nbstripout $(NOTEBOOKS))

lock: setup ## write requirements.lock again; ARGS=--upgrade takes every current release
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group dev --no-annotate --generate-hashes \
		--custom-compile-command "make lock" --output-file requirements.lock $(ARGS) pyproject.toml

clean: ## remove the environment and every cache; runs, data and weights stay
	rm -rf .venv .bootstrap .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find $(wildcard wanavatar_lab training tests) -name __pycache__ -type d -prune -exec rm -rf {} +
