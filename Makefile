# Everything a newcomer types. Needs only Python 3.11+ (with venv) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST ?= .venv-lowest
# Processes that `make test` and `make lowest` divide the tests among (tests/side_by_side.py); each takes up to 3 GB.
SIDE_BY_SIDE ?= 2
FAST := not slow and not chaos and not browser and not gpu

.PHONY: install test fuzz lowest lint demo bench chaos losses month docs wheels ci lock clean
install: $(STAMP)

# uv comes from pip into the new environment and installs the pinned set in seconds.
$(STAMP): requirements.lock pyproject.toml
	@test -d clipmill/jobs || { echo "clipmill/jobs is no link: clone with core.symlinks=true, or unpack what keeps links" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11: make install PYTHON=python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $(STAMP)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: install
	$(BIN)/python -m pytest -n $(SIDE_BY_SIDE) -m "$(FAST)"

# The property tests with twenty times the examples, others each time (tests/examples.py).
fuzz: install
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -m "hypothesis and $(FAST)" --timeout=3600

# Storage, reading and querying on the lowest versions that pyproject.toml allows, in an environment of their own.
lowest: $(LOWEST)/.installed
	$(BIN)/uv pip check --quiet --python $(LOWEST)/bin/python
	PYTHONPATH="$(CURDIR)" $(LOWEST)/bin/python -m pytest -n $(SIDE_BY_SIDE) -m "$(FAST) and not ray" tests/store tests/read tests/table tests/querying

# `sync` takes the pins as they are; whether each package then has what it asks for is what `check` above is for.
$(LOWEST)/.installed: tests/lowest.lock $(STAMP)
	$(BIN)/uv venv --quiet --clear --python 3.11 $(LOWEST)
	$(BIN)/uv pip sync --quiet --python $(LOWEST)/bin/python tests/lowest.lock
	touch $@

demo: install
	$(BIN)/clipmill demo

# Ten seeds of every kind of kill; writes a dated result into docs/.
chaos: install
	CHAOS_SEEDS=10 $(BIN)/python -m pytest -m chaos --junitxml=.chaos.xml; status=$$?; \
	$(BIN)/python -m tests.chaos.report .chaos.xml docs/chaos.md && exit $$status

# Ratios to another build, in under ten minutes on a free machine: make bench AGAINST=COMMIT [ONLY="index script"]. Nothing is judged.
AGAINST ?= $(error say which build to compare with: make bench AGAINST=COMMIT)
bench: install
	$(BIN)/python -m benchmarks.against $(AGAINST) $(if $(ONLY),--only $(ONLY))

# 200 units through ten lost nodes and ten that join (three minutes); writes a dated result, fails where a row is missing.
losses: install
	$(BIN)/python -m benchmarks.losses

# Thirty nights over a bucket that changes every day (CI does seven), for each kind of source; writes a dated result.
month: install
	rm -rf .month
	MONTH_NIGHTS=30 MONTH_RESULTS="$(CURDIR)/.month" $(BIN)/python -m pytest -m slow tests/publishing/month/test_seven_nights.py; \
	status=$$?; $(BIN)/python -m tests.publishing.month.month_page .month docs/month.md && exit $$status

# The command line's reference, from --help, and what models expect, from open_clip's lists; tests compare.
docs: install
	$(BIN)/python docs/make_cli.py > docs/cli.md
	$(BIN)/python docs/make_weights.py > docs/weights.md

# What is published, into dist/: clipmill's sdist and wheel, and clipmill-client's wheel.
wheels: install
	$(BIN)/python deploy/wheels.py dist

# Everything, as CI runs it; see the top of the file.
ci:
	.ci/run

lock: install
	$(BIN)/uv pip compile --quiet --no-emit-index-url --no-header --extra dev pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --no-emit-index-url --no-header --extra hf --extra serve -c requirements.lock pyproject.toml -o deploy/requirements.lock
	$(BIN)/uv pip compile --quiet --no-emit-index-url --no-header --no-annotate --extra dev --resolution lowest-direct --python-version 3.11 --excludes tests/lowest-without.txt pyproject.toml -o tests/lowest.lock

clean:
	rm -rf $(VENV) .venv-lowest .bench demo-out dist
	-git worktree prune
