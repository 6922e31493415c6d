# On a machine with Python 3.11 and make: `make demo` and `make test` do the rest.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# torch comes first and pinned: nothing may pull the CUDA build in its place.
STAMP := $(VENV)/.installed

.PHONY: help install demo test lint types check style docs docs-figures release-check wheel bench bench-mim bench-loader bench-newcomer bench-preprocess bench-ranks fuzz study weights clean
help:  ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $(STAMP)

install: $(STAMP)  ## create .venv with the package and its development tools

demo: $(STAMP)  ## phantoms -> bundled encoder -> classifier -> ONNX -> demo-out/report.html
	rm -rf demo-out
	$(BIN)/prostate-mim demo --out demo-out

test: $(STAMP)  ## the whole test suite (set PROSTATE_MIM_REAL_DATA for the tests on real volumes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy
	$(BIN)/mypy

check: lint types  ## lint and types

style: $(STAMP)  ## count sizes, docstrings, types and tests of the package into CONTRIBUTING.md
	$(BIN)/python tests/style/measure.py --write

docs: $(STAMP)  ## the site, docs/_build/html/index.html; warnings are errors, no network
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/python tests/docs/links.py docs/_build/html

docs-figures: $(STAMP)  ## draw the figures of docs/concepts and fill the tables of docs/performance.md anew
	$(BIN)/python docs/concepts/figures.py
	$(BIN)/python docs/performance_tables.py --write

release-check: $(STAMP)  ## is HEAD fit to be released? builds twice, fresh environments, audit, licences
	$(BIN)/python tests/release/check.py --out dist

wheel: $(STAMP)  ## build dist/*.whl
	$(BIN)/python -m build --wheel --no-isolation

bench: $(STAMP)  ## start-up times and throughput, printed as a table
	$(BIN)/python tests/bench/package.py

bench-newcomer: $(STAMP)  ## README's main path as it stands there and a service's first answer, each line timed
	$(BIN)/python tests/bench/newcomer.py

bench-mim: $(STAMP)  ## the cost of one masked pretraining step by path: JSON lines and a table, about an hour
	$(BIN)/python tests/bench/mim.py --out bench-mim.jsonl --table bench-mim.md

bench-loader: $(STAMP)  ## crops per second beside MONAI's PersistentDataset and CacheDataset
	$(BIN)/python tests/bench/loader.py --out bench-loader.jsonl --table bench-loader.md

bench-preprocess: $(STAMP)  ## volumes per second from file to array, beside MONAI's transforms
	$(BIN)/python tests/bench/preprocessing.py --out bench-preprocess.jsonl --table bench-preprocess.md

fuzz: $(STAMP)  ## two million damaged headers under atheris: 10 minutes
	mkdir -p .fuzz
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/atheris_headers.py -runs=2000000 -rss_limit_mb=500 -max_len=4096 \
	    -artifact_prefix=.fuzz/found- .fuzz tests/fuzz/corpus

bench-ranks: $(STAMP)  ## how much faster two processes are than one
	$(BIN)/python tests/bench/ranks.py

DATA ?= ../shared/data
OUT ?= study-out
KEPT ?= hub_cards/study/kept.parquet
study: $(STAMP)  ## hub_cards/STUDY.md: what kept.parquet lacks is computed (KEPT= computes all: hours), and goes on where it stopped
	$(BIN)/python hub_cards/study/make_data.py --data $(DATA) --out $(OUT)/data
	test -z "$(KEPT)" || $(BIN)/python hub_cards/study/keep.py load --studies $(OUT) --file $(KEPT)
	for name in recipe study finetune; do OMP_NUM_THREADS=1 $(BIN)/prostate-mim study hub_cards/study/$$name.toml \
	  --data $(OUT)/data --out $(OUT)/$$name --store $(OUT)/store --encoders $(OUT)/study --engine process --workers 2 \
	  --report || exit; done
	$(BIN)/python hub_cards/study/keep.py save --studies $(OUT)
	$(BIN)/python hub_cards/study/publish.py --studies $(OUT) --data $(OUT)/data

WORK ?= zoo-out
weights: $(STAMP)  ## train, score and publish one model of hub_cards/: make weights NAME=resenc-s.mim-t2w (an hour; goes on)
	OMP_NUM_THREADS=1 $(BIN)/python hub_cards/zoo/train.py $(NAME) --data $(DATA) --work $(WORK)
	$(BIN)/python hub_cards/zoo/publish.py $(NAME) --work $(WORK)

clean:  ## remove what the targets made
	rm -rf $(VENV) demo-out dist build docs/_build docs/reference docs/repository *.egg-info
