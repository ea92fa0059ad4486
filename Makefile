# softmix: everything starts here. `make demo` and `make test` need nothing but Python (3.11 up), git and make.
PYTHON ?= python3
BIN := .venv/bin
export OMP_WAIT_POLICY ?= passive

.PHONY: install demo test check docs package oldest bench bench-full clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade "pip>=23"
	@# torch first and pinned: a plain request can bring gigabytes of another build
	$(BIN)/python -m pip install -q $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/python examples/demo.py

test: install
	$(BIN)/python -m pytest -n 2

check: install
	$(BIN)/ruff format --check src tests examples bench tools
	$(BIN)/ruff check src tests examples bench tools
	$(BIN)/mypy

# a site of all pages and all public names, in site/; a dead link is an error. It is read without a network
docs: .venv/docs
	$(BIN)/mkdocs build --strict --quiet
	$(BIN)/python tools/check_site.py site

.venv/docs: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	@touch $@

# wheel and sdist, built apart from the checkout, and the wheel tried where there is nothing else
package: install
	rm -rf dist build
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python tools/try_wheel.py dist

# some tests with the oldest version that pyproject.toml allows of every dependency. torch's older builds for x86 bring
# gigabytes, so the one of constraints.txt is taken: where there is a small one, make oldest TORCH=2.6.0
TORCH ?= $(shell sed -n 's/^torch==//p' constraints.txt)
OLDEST := .venv-oldest
oldest: install
	rm -rf $(OLDEST)
	$(PYTHON) -m venv $(OLDEST)
	$(BIN)/python tools/oldest.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install -q --upgrade "pip>=23"
	$(OLDEST)/bin/python -m pip install -q torch==$(TORCH)
	$(OLDEST)/bin/python -m pip install -q -c $(OLDEST)/constraints.txt -e '.[test]'
	$(OLDEST)/bin/python -m pip list --format=freeze
	$(OLDEST)/bin/python -m pytest -n 2 -p no:cacheprovider -m "not slow" tests/test_config.py tests/cli/test_cli_parse.py \
		tests/cli/test_cli_check.py tests/data tests/posterior tests/process tests/net tests/evaluate/test_evaluate_report.py \
		tests/evaluate/test_evaluate_plot.py tests/train/test_train_checkpoint.py tests/hub/test_hub_export.py tests/hub/test_hub_sample.py

# every table in a short form, under 10 minutes on two cores; too short to be believed, long enough to see that all runs
bench: install
	$(BIN)/python bench/throughput.py --seconds 0.5
	$(BIN)/python bench/fewsteps.py --data digits --images 6400 --seeds 0 --n 200 --out runs/bench \
		--rows plain "SMD as published" "feature score" "feature score, eta = 0" consistency meanflow
	$(BIN)/python bench/peers.py overhead
	$(BIN)/python bench/peers.py speed --seconds 4

# what docs/benchmarks.md shows: a day on two cores. Rows that are there are not computed again
bench-full: install
	$(BIN)/python bench/throughput.py
	$(BIN)/python bench/fewsteps.py --data digits --images 100000 --seeds 0 1 2 --out runs/few
	$(BIN)/python bench/fewsteps.py --data fashion14 --images 150000 --seeds 0 1 2 --out runs/few
	$(BIN)/python bench/peers.py overhead
	$(BIN)/python bench/peers.py speed
	$(BIN)/python bench/peers.py quality

clean:
	rm -rf .venv .venv-oldest build dist site src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
