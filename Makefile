# `make test` and `make demo` need Python 3.11+, make and a C compiler; everything else is installed into .venv.
# The first interpreter that runs and is new enough (a version manager's shim may exist but not run).
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
CHECK_PYTHON = "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	|| { echo 'Python 3.11 or newer is needed; give it as PYTHON=…'; exit 1; }
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-tests

# Packages that the tests of codecs and tokenizers compare with; their own requirements are outdated and not needed.
ORACLES := dalle-pytorch axial-positional-embedding rotary-embedding-torch taming-transformers-rom1504 DALL-E regex wids
# Built here if a C++ compiler is available, with a Cython that it does not declare; otherwise its tests are skipped.
BUILT_ORACLES := youtokentome

# Airflow has its own environment, since its requirements conflict with ours.
AIRFLOW_VENV ?= .venv-airflow
AIRFLOW_BIN := $(AIRFLOW_VENV)/bin
AIRFLOW_STAMP := $(AIRFLOW_VENV)/.installed
AIRFLOW_PORT ?= 8080
# As many as there are cores, but no more than four: each takes up to 1.5 GB.
TEST_PROCESSES ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))

# So has pywb, the web archive that the scraper's tests read; without it they are skipped.
ARCHIVE_VENV ?= .venv-archive
ARCHIVE_BIN := $(ARCHIVE_VENV)/bin
ARCHIVE_STAMP := $(ARCHIVE_VENV)/.installed

# And img2dataset, whose requirements exclude ours; without it the tests of bulk downloads are skipped.
IMG2DATASET_VENV ?= .venv-img2dataset
IMG2DATASET_BIN := $(IMG2DATASET_VENV)/bin
IMG2DATASET_STAMP := $(IMG2DATASET_VENV)/.installed

# Debian packages that some tests need: a browser, the emoji font and its names, thousands of drawings.
DEBIAN_PACKAGES := chromium fonts-noto-color-emoji unicode-data openclipart-png

# Python keeps what it has compiled: without it, each process that a test starts compiles all its imports again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo emoji debian-packages environments test lint types unit slow test-gpu notebooks mutants airflow test-airflow test-engines clean

demo: $(STAMP)
	$(BIN)/pipeline demo

# A small model of the emoji in Debian's fonts-noto-color-emoji, with the names in its unicode-data.
emoji: $(STAMP)
	$(BIN)/pipeline emoji

# Any other Chromium on the PATH, or the one that DALLE_CHROMIUM names, also does. Never fails.
debian-packages:
	@for package in $(DEBIAN_PACKAGES); do \
		dpkg -s $$package >/dev/null 2>&1 && continue; \
		test $$package = chromium && { test -n "$$DALLE_CHROMIUM" || command -v chromium \
			|| command -v chromium-browser || command -v google-chrome; } >/dev/null && continue; \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
			&& { apt-get install -y -q --no-install-recommends $$package \
				|| { apt-get update -q && apt-get install -y -q --no-install-recommends $$package; }; } \
			|| echo "$$package is not installed: the tests that need it are skipped"; \
	done

# Every environment, which `--jobs` installs side by side.
environments: $(TEST_STAMP) $(AIRFLOW_STAMP) $(ARCHIVE_STAMP) $(IMG2DATASET_STAMP)

test: lint types unit

lint: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TEST_STAMP)
	$(BIN)/mypy

# In several processes, each of which gets whole files.
unit: $(TEST_STAMP) $(ARCHIVE_STAMP)
	$(BIN)/python -m pytest -m "not slow" -n $(TEST_PROCESSES) --dist loadfile

# The slow tests, which `make test` leaves out; with more time for each, as those that start processes share the cores.
slow: $(TEST_STAMP) $(ARCHIVE_STAMP)
	$(BIN)/python -m pytest -m slow -n $(TEST_PROCESSES) --dist loadfile --timeout 600

# The tests that need a CUDA device.
test-gpu: $(TEST_STAMP)
	$(BIN)/python -m pytest -m cuda

# Both notebooks from their first cell to their last, with few steps; a cell that fails fails the target.
notebooks: $(TEST_STAMP)
	rm -rf notebooks/data notebooks/mine notebooks/shapes
	DALLE_NOTEBOOK_QUICK=1 $(BIN)/python -m pytest --nbmake --nbmake-timeout 600 --timeout 1200 notebooks

# Small changes of meaning, each of which a test must notice (docs/testing.md); ARGS='--sample 20' for some.
mutants: $(TEST_STAMP)
	$(BIN)/python tests/mutants/run.py $(ARGS)

# The DAGs in a real Airflow: parsed, run against the mock server, and through the API of a running one.
test-airflow: $(STAMP) $(AIRFLOW_STAMP)
	$(AIRFLOW_BIN)/python -m pytest tests/dags

# Bulk downloads by img2dataset itself (processes, Ray, Spark if there is a Java runtime), and our parts on Ray.
test-engines: $(TEST_STAMP) $(IMG2DATASET_STAMP)
	DALLE_IMG2DATASET_PYTHON=$(abspath $(IMG2DATASET_BIN))/python $(BIN)/python -m pytest tests/scrapers/bulk \
		tests/scrapers/sources/urls/test_bulk.py tests/scrapers/sources/img2dataset/test_real_output.py \
		tests/scrapers/resizing/test_real_resizer.py

# Airflow on 127.0.0.1, with the mock server as the source; prints its URL. Ctrl-C ends it.
airflow: $(STAMP) $(AIRFLOW_STAMP)
	$(AIRFLOW_BIN)/python dags/standalone.py --airflow $(AIRFLOW_BIN)/airflow --pipeline $(BIN)/pipeline \
		--port $(AIRFLOW_PORT)

$(AIRFLOW_STAMP): constraints-airflow.txt
	@$(CHECK_PYTHON)
	test -x $(AIRFLOW_BIN)/python || $(PYTHON) -m venv $(AIRFLOW_VENV)
	$(AIRFLOW_BIN)/python -m pip install --quiet --constraint constraints-airflow.txt apache-airflow pytest pytest-timeout
	touch $@

$(ARCHIVE_STAMP): constraints-archive.txt
	@$(CHECK_PYTHON)
	test -x $(ARCHIVE_BIN)/python || $(PYTHON) -m venv $(ARCHIVE_VENV)
	$(ARCHIVE_BIN)/python -m pip install --quiet --constraint constraints-archive.txt setuptools pywb \
		&& touch $@ || { rm -rf $(ARCHIVE_VENV); echo 'pywb could not be installed: the tests against it are skipped'; }

$(IMG2DATASET_STAMP): constraints-img2dataset.txt
	@$(CHECK_PYTHON)
	test -x $(IMG2DATASET_BIN)/python || $(PYTHON) -m venv $(IMG2DATASET_VENV)
	$(IMG2DATASET_BIN)/python -m pip install --quiet --constraint constraints-img2dataset.txt img2dataset ray pyspark
	command -v java >/dev/null || { test "$$(id -u)" = 0 && apt-get install -y -q openjdk-17-jre-headless; } \
		|| echo 'There is no Java runtime: img2dataset is not tested on Spark'
	touch $@

# torch first and alone: the pinned version is the one whose CPU build may be available.
$(STAMP): pyproject.toml constraints.txt
	@$(CHECK_PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train]'
	touch $@

$(TEST_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps $(ORACLES)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt cython setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --no-build-isolation $(BUILT_ORACLES) \
		|| echo '$(BUILT_ORACLES) could not be built: the tests beside it are skipped'
	touch $@

clean:
	rm -rf $(VENV) $(AIRFLOW_VENV) $(ARCHIVE_VENV) $(IMG2DATASET_VENV) data dist build
