# `make demo` and `make test` run from a bare clone: they create .venv and install the pinned packages. A second call
# reuses both. PYTHON=python3.12 selects another interpreter; use another VENV for it.
SUPPORTED := python3.13 python3.12 python3.11
# All Pythons that pyenv has installed run under their names, newest first.
export PYENV_VERSION := $(or $(PYENV_VERSION),$(shell pyenv versions --bare 2>/dev/null | grep -E '^3\.1[1-3]\.[0-9]+$$' | sort -rV | paste -sd: -))
# The newest that runs: a shim of pyenv may exist without its Python.
PYTHON ?= $(shell export PYENV_VERSION=$(PYENV_VERSION); \
  for name in $(SUPPORTED); do $$name -c '' 2>/dev/null && break; done; echo $$name)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Processes start in half the time with cached bytecode, which the first import writes.
export PYTHONDONTWRITEBYTECODE :=
# XLA on CPUs allocates a step's temporaries anew: huge pages, which Linux gives where asked, save most page faults.
export GLIBC_TUNABLES := $(or $(GLIBC_TUNABLES),glibc.malloc.hugetlb=1)
BUILD := build
DOCS_VENV := $(BUILD)/docs-venv
DOCS_INSTALLED := $(DOCS_VENV)/.installed
# The steps of captioners are those of configs/generated_captions.py.
CAPTIONER_STEPS := 1200 300
HAS_CAPTION_EXTRA = $(BIN)/python -c 'import torch, transformers' 2>/dev/null
NEEDS_CAPTION_EXTRA = generated captions need the extra \"caption\": $(BIN)/python -m pip install --editable '.[caption]'

.PHONY: help demo demo-single-frame ablation generated-captions data-scale smoke test test-fast check format docs release lock clean

help: ## Show this list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-18s %s\n", $$1, $$2}'

demo: $(INSTALLED) ## Build the embedded corpus, train a small model, write results.json and report.html to build/demo.
	$(BIN)/python -m clipvip_jax.main --config=configs/post_pretrain.py:demo --workdir=$(BUILD)/demo --config.data.data_dir=$(BUILD)/datasets

demo-single-frame: $(INSTALLED) ## The demo on single frames: the control that cannot distinguish twins.
	$(BIN)/python -m clipvip_jax.main --config=configs/post_pretrain.py:demo,single_frame --workdir=$(BUILD)/demo_single_frame --config.data.data_dir=$(BUILD)/datasets

ablation: $(INSTALLED) ## Run all arms of docs/replication.md with three seeds each. Resumes where it stopped.
	$(BIN)/python -m clipvip_jax.study --config=configs/replication.py --workdir=$(BUILD)/replication --data_dir=$(BUILD)/datasets
	@if $(HAS_CAPTION_EXTRA); then $(MAKE) generated-captions; else echo "Skipped: $(NEEDS_CAPTION_EXTRA)"; fi

generated-captions: $(INSTALLED) ## Train captioners, and train with their captions, with rendered and without. Resumes where it stopped.
	@$(HAS_CAPTION_EXTRA) || { echo "$(NEEDS_CAPTION_EXTRA)"; exit 2; }
	$(BIN)/python -m clipvip_jax.data_tool build moving_shapes --data_dir=$(BUILD)/datasets
	$(BIN)/python -m clipvip_jax.data_tool build moving_shapes --data_dir=$(BUILD)/datasets --name=stills --seed=1 --appearances=80 --renderings=4
	for steps in $(CAPTIONER_STEPS); do \
	  model=$(BUILD)/captioners/steps_$$steps; captions=$(BUILD)/generated_captions/steps_$$steps; \
	  $(BIN)/python -m benchmarks.captioner moving_shapes --config=stills --data_dir=$(BUILD)/datasets --steps=$$steps --out=$$model && \
	  $(BIN)/python -m clipvip_jax.caption moving_shapes --data_dir=$(BUILD)/datasets --engine=transformers --model=$$model --batch_size=64 --out=$$captions && \
	  $(BIN)/python -m clipvip_jax.data_tool add-captions moving_shapes $$captions --data_dir=$(BUILD)/datasets --name=demo+captioner_$$steps || exit; \
	done
	$(BIN)/python -m benchmarks.caption_accuracy $(CAPTIONER_STEPS:%=$(BUILD)/generated_captions/steps_%) --data_dir=$(BUILD)/datasets
	$(BIN)/python -m clipvip_jax.study --config=configs/generated_captions.py --workdir=$(BUILD)/generated_captions_study --data_dir=$(BUILD)/datasets

data-scale: $(INSTALLED) ## Train on growing shares of the corpus and plot recall over steps.
	$(BIN)/python -m clipvip_jax.study --config=configs/data_scale.py:demo --workdir=$(BUILD)/data_scale --data_dir=$(BUILD)/datasets --seeds=1

smoke: $(INSTALLED) ## Build, train and evaluate in a few steps: half a minute.
	$(BIN)/python -m clipvip_jax.main --config=configs/post_pretrain.py:smoke --workdir=$(BUILD)/smoke --config.data.data_dir=$(BUILD)/datasets_smoke

test: $(INSTALLED) ## Run all tests.
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

test-fast: $(INSTALLED) ## Run the tests without those marked slow (complete runs, builds).
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal -m "not slow"

check: $(INSTALLED) ## Run the linters and the type checker.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## Fix what the linters can fix.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS_INSTALLED) ## Render docs/ and the API reference to build/site; warnings are errors.
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --site-dir $(BUILD)/site

# Creates an environment in a folder, unless it holds one.
create_venv = @python=$(PYTHON); test ! -x $(1)/bin/python || python=$(1)/bin/python; \
  $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || \
  { echo "$$python is missing or unsupported: install Python 3.11, 3.12 or 3.13, or run make PYTHON=/path/to/python VENV=.venv_new"; exit 2; }; \
  test -x $(1)/bin/python || $$python -m venv $(1)

$(INSTALLED): requirements.lock pyproject.toml
	$(call create_venv,$(VENV))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# The documentation has its own environment, since its tools are not part of the lock.
$(DOCS_INSTALLED): requirements-docs.txt
	$(call create_venv,$(DOCS_VENV))
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@

release: $(INSTALLED) ## Build wheel and source distribution in build/dist, check both, and install the wheel alone.
	rm -rf $(BUILD)/dist $(BUILD)/release-venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv build --quiet --out-dir $(BUILD)/dist
	$(BIN)/uv tool run --quiet --from twine==7.0.0 twine check --strict $(BUILD)/dist/*.whl $(BUILD)/dist/*.tar.gz
	$(BIN)/uv venv --quiet --python $(BIN)/python $(BUILD)/release-venv
	$(BIN)/uv pip install --quiet --python $(BUILD)/release-venv --constraint requirements.lock $(BUILD)/dist/*.whl
	cd $(BUILD)/dist && ../release-venv/bin/clipvip --version

lock: $(INSTALLED) ## Resolve requirements.txt again, for every supported Python and platform.
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --universal --python-version 3.11 --upgrade --no-header --no-annotate --no-emit-find-links --no-emit-index-url requirements-dev.txt -o requirements.lock
	sed -i '1i # Resolved from requirements.txt and requirements-dev.txt by `make lock`, for Python 3.11 to 3.13.' requirements.lock

clean: ## Delete build/ and the environment.
	rm -rf $(BUILD) $(VENV)
