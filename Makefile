# Every target makes its own environment in .venv first; uv inside it resolves and installs quickly.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DOCS := $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[docs]'
export NO_ALBUMENTATIONS_UPDATE := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: install test pytest test-nightly lint format docs docs-serve demo bench soak clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv -c constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[dev]'
	touch $(READY)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Both at once: mypy alone would leave one of two processors idle for most of a minute.
test: $(READY)
	$(MAKE) --no-print-directory -j2 lint pytest

pytest: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# All tests, also the long ones: simulations, real signals to whole processes, searches by two processes, MLflow, the
# documentation, the notebook; and the pages in a browser, if a chromium is on the PATH.
test-nightly: lint
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[mlflow,docs,notebook,dev-browser]'
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m ""

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation as a site, in site/: index.html opens from disk. Any warning is an error, a broken link too.
docs: $(READY)
	$(DOCS)
	$(BIN)/mkdocs build --strict

docs-serve: $(READY)
	$(DOCS)
	$(BIN)/mkdocs serve

# The whole job on the built-in drawings: a GAN, its images, the ablation.
demo: $(READY)
	$(BIN)/balancer gan-train --data phantom
	$(BIN)/balancer synthesize --data phantom
	$(BIN)/classifier ablate --data phantom --regimes all --seeds 3 --jobs 2

bench: $(READY)
	$(BIN)/python benchmarks/gan_speed.py
	$(BIN)/python benchmarks/classifier_speed.py
	$(BIN)/python benchmarks/threads.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/dry_runs.py

# 200 short runs, every fifth killed: nothing may be left behind. Some twenty minutes.
soak: $(READY)
	$(BIN)/python benchmarks/soak.py

clean:
	rm -rf .venv build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
