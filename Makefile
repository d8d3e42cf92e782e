# Everything starts here. Needs Python 3.11 or newer and make; the environment is made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: report test lab docs docs-links lint clean
.DEFAULT_GOAL := report

# All stages, quickly, and one page to read: reports/<time>/index.html. `make report PAIR=ptychopinn` asks the same of
# PtychoPINN's own pair, where it is installed.
report: $(VENV)/.ready
	$(BIN)/ptyint run $(if $(PAIR),-p reference $(PAIR)-tensorflow -p candidate $(PAIR)-pytorch) $(ARGS)

# Without the tests marked slow: `make test ARGS='-m slow'` runs those, and CI both. A file's tests stay in one process.
# One that hangs is red after 15 minutes.
test: $(VENV)/.ready
	$(BIN)/python -m pytest -rs -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --timeout 900 -m 'not slow' $(ARGS)

lab: $(VENV)/.ready
	$(BIN)/ptyint lab

# The documentation site: build/site/index.html.
docs: $(VENV)/.ready
	$(BIN)/python -m sphinx -W --keep-going -q -d build/doctrees docs build/site

# Asks every external link of the documentation, so it needs a network; build/links/output.txt has the answers.
docs-links: $(VENV)/.ready
	$(BIN)/python -m sphinx -b linkcheck -q -d build/doctrees docs build/links

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "ptyint needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[archive,dev,docs,lab,ptychodus,sweep]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
