# `make demo` and `make test` do everything from a bare clone; a second call reuses what is there.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BUILD := build

.PHONY: demo demo-single-frame ablation data-scale smoke test check format lock clean

# The recipe on a small model and the embedded corpus: results.json and report.html in build/demo.
demo: $(INSTALLED)
	$(BIN)/python -m clipvip_jax.main --config=configs/post_pretrain.py:demo --workdir=$(BUILD)/demo --config.data.data_dir=$(BUILD)/datasets

# The same on single frames, the control that must fail to tell the twins apart.
demo-single-frame: $(INSTALLED)
	$(BIN)/python -m clipvip_jax.main --config=configs/post_pretrain.py:demo,single_frame --workdir=$(BUILD)/demo_single_frame --config.data.data_dir=$(BUILD)/datasets

# A small CLIP learns still images, and every method of the paper adapts it to video, with three seeds each: a night on
# two cores. Goes on where it was stopped; build/replication/study.html shows what is finished.
ablation: $(INSTALLED)
	$(BIN)/python -m clipvip_jax.study --config=configs/replication.py --workdir=$(BUILD)/replication --data_dir=$(BUILD)/datasets

# What growing shares of the corpus are worth: curves that rise and fall again.
data-scale: $(INSTALLED)
	$(BIN)/python -m clipvip_jax.study --config=configs/data_scale.py:demo --workdir=$(BUILD)/data_scale --data_dir=$(BUILD)/datasets --seeds=1

# A few steps of everything: half a minute.
smoke: $(INSTALLED)
	$(BIN)/python -m clipvip_jax.main --config=configs/post_pretrain.py:smoke --workdir=$(BUILD)/smoke --config.data.data_dir=$(BUILD)/datasets_smoke

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or 3.12, or run make PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# Resolve requirements.txt again, for every supported Python and platform.
lock: $(INSTALLED)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --universal --python-version 3.11 --upgrade --no-header --no-annotate --no-emit-find-links --no-emit-index-url requirements-dev.txt -o requirements.lock
	sed -i '1i # Resolved from requirements.txt and requirements-dev.txt by `make lock`, for Python 3.11 and 3.12.' requirements.lock

clean:
	rm -rf $(BUILD) $(VENV)
