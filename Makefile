# make demo   embed, verify, compress, verify again; needs nothing but Python
# make test   the test suite (under ten minutes on two cores)
# make lint   ruff and mypy
# make venv   the virtual environment that the others use (made by itself when missing)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint venv clean

demo: venv
	$(BIN)/treering demo

test: venv
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

venv: $(VENV)/.made

$(VENV)/.made: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info treering-demo
