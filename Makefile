# Two commands: `make run` and `make test`. The README tells how to do the same by hand.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test test-beyond lint chromium

run: .venv/app
	$(BIN)/python app.py $(ARGS)

test: .venv/dev chromium
	$(BIN)/python -m pytest

# Engines on Ray and behind other people's servers. An environment of its own: Ray is large, and
# llama-cpp-python is compiled here, which takes some minutes and a C++ compiler.
test-beyond: .venv-beyond/ready
	.venv-beyond/bin/python -W ignore -m pytest -m beyond

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/app: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -r requirements.txt
	touch $@

.venv/dev: .venv/app requirements-dev.txt
	$(BIN)/pip install -q -r requirements-dev.txt
	touch $@

.venv-beyond/ready: requirements.txt requirements-dev.txt examples/requirements-ray.txt tests/requirements-beyond.txt
	$(PYTHON) -m venv .venv-beyond
	.venv-beyond/bin/pip install -q -r tests/requirements-beyond.txt
	touch $@

# The browser tests need a Chromium; Debian and Ubuntu get theirs here, others install it by hand.
chromium:
	@command -v chromium >/dev/null || { command -v apt-get >/dev/null && \
	  sudo=$$([ "$$(id -u)" = 0 ] || echo sudo) && \
	  $$sudo apt-get update -qq && $$sudo apt-get install -y -qq chromium >/dev/null; } || \
	  { echo "The browser tests need 'chromium' on the PATH: install it and run again."; exit 1; }
