# softmix: everything starts here. `make demo` and `make test` need nothing but Python (3.11 up), git and make.
PYTHON ?= python3
BIN := .venv/bin
export OMP_WAIT_POLICY ?= passive

.PHONY: install demo test check bench bench-full clean

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
	$(BIN)/ruff format --check src tests examples bench
	$(BIN)/ruff check src tests examples bench
	$(BIN)/mypy

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
	rm -rf .venv build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
