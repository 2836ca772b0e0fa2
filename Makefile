PYTHON ?= python3
VENV := .venv/bin
LANES ?= 2
ACCEPTED := (3, 11) <= sys.version_info[:2] <= (3, 13)

# Libraries keep their caches in the home, and JupyterLab its connections; where nobody may write there, runs/home is one.
ifneq ($(shell [ -w "$$HOME" ] && echo writable),writable)
export HOME := $(CURDIR)/runs/home
endif

help:  ## list these commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

lab: setup  ## open the course in JupyterLab
# By the settings in lab/ its root is this folder, it asks no other host for news, and a chapter that is only read stays as it was.
	@$(VENV)/jupyter lab --config=lab/config.py notebooks/00_start_here.ipynb

test: setup  ## execute and compare every notebook, then run tests/; make test TESTS=notebooks/05_train.ipynb: only that
# A machine that only tests, and may install, gets the browser that the tests drive; elsewhere they say that it is missing.
	@command -v chromium >/dev/null || [ -z "$$CI" ] || [ "$$(id -u)" != 0 ] \
		|| (apt-get update -qq && apt-get install -y -qq chromium >/dev/null) || true
	@$(VENV)/python -m pytest $(or $(TESTS),-n $(LANES) --dist loadscope --no-loadscope-reorder)

check: setup  ## what to run before each commit: form, names, prose, lint, spelling; nothing is executed
	@$(VENV)/python -m pytest -q --durations=0 --durations-min=20 tests/test_form.py tests/test_names.py tests/test_prose.py tests/test_numerals.py

run: setup  ## execute one chapter without a browser: make run CHAPTER=05
	@$(VENV)/python notebooks/run.py $(or $(CHAPTER),05)

reset:  ## put a chapter back as it came, and keep yours beside it: make reset CHAPTER=05, or all
	@$(PYTHON) lab/reset.py $(CHAPTER)

refresh: setup  ## execute chapters again and save their outputs: make refresh CHAPTER="00 01", or all
	@$(VENV)/python notebooks/run.py --save $(CHAPTER)

site: setup  ## build the site to read, into site/_build/html
	@$(VENV)/python -m sphinx -W --keep-going -q -a -E -b html site site/_build/html
	@echo "site: open site/_build/html/index.html"

slides: setup  ## make a deck of each chapter, in site/_build/html/slides
	@$(VENV)/python site/slides.py

bench: setup  ## measure recipes side by side, in over an hour; make bench CURVE=--curve: the learning curves
	@$(VENV)/python bench/bench.py $(CURVE)

changes: setup  ## measure one change at a time, three seeds each, some ten minutes a trial: make changes CHANGES="--only plain"
	@$(VENV)/python bench/changes.py $(CHANGES)

gpu: setup  ## run the full edition on this machine's GPU, then measure: make gpu GPU="--seconds 3600 --chapters 2400 --each 1800"
	@$(VENV)/python bench/pack_gpu.py --no-wheels
	@$(VENV)/python bench/gpu_run.py $(GPU)

newest: setup  ## run the tests with the newest packages: make newest TESTS=notebooks/00_start_here.ipynb, or all
# torch stays, since another one is gigabytes. The versions that a chapter prints may be the newer ones.
	@$(VENV)/python -m venv runs/newest
	@sed -E '/^torch==/!s/==.*//' requirements.txt > runs/newest/requirements.txt
	@runs/newest/bin/python -m pip install --disable-pip-version-check -q -U --upgrade-strategy eager $$($(PYTHON) torch_index.py) -r runs/newest/requirements.txt
	@$(VENV)/python -m pip freeze | LC_ALL=C sort -t= -k1,1 > runs/newest/pinned
	@runs/newest/bin/python -m pip freeze | LC_ALL=C sort -t= -k1,1 > runs/newest/newest
	@LC_ALL=C join -t= runs/newest/pinned runs/newest/newest | awk -F== '$$2 != $$3 {print "newest: " $$1, $$2, "->", $$3}'
	@runs/newest/bin/python -m pytest $(TESTS)

mutants: setup  ## break the course on purpose, and count what the tests notice: make mutants MUTANTS=40 SEED=1
	@$(VENV)/python tests/mutants.py $(or $(MUTANTS),40) $(or $(SEED),1)

clean:  ## remove what runs and `make gpu` made, the prepared data and .venv
	rm -rf runs .gpu .venv site/_build site/chapters site/data site/bench site/teaching.md site/map.md data/imdb data/rotten_tomatoes data/distilbert-mini data/.lock data/.making-*

setup: writable .venv/complete
	@echo "setup: the packages of requirements.txt are installed"
	@$(VENV)/python data/prepare.py

writable:
	@[ -w . ] || { echo "setup: this folder is read-only, and the course writes .venv, data and runs into it; copy it to a folder of your own and type the same there" >&2; exit 1; }
	@mkdir -p "$$HOME"

# The mark is written last: an interrupted installation is taken up by the next call.
.venv/complete: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if $(ACCEPTED) else f"setup: this is Python {sys.version.split()[0]}, and the course needs 3.11, 3.12 or 3.13; name one: make PYTHON=python3.11")'
	@echo "setup: installing the packages of requirements.txt into .venv"
# pip writes a package's INSTALLER last; a package without it was interrupted, and pip would take it for whole.
	@for info in .venv/lib/python*/site-packages/*.dist-info; do [ -s "$$info/INSTALLER" ] || rm -rf "$$info"; done
	@$(PYTHON) -m venv .venv
	@$(VENV)/python -m pip install --disable-pip-version-check $$($(PYTHON) torch_index.py) -r requirements.txt \
		|| { echo "setup: pip could not install the packages, for the reason above; check the room on the disk and the connection$$(env | sed -nE 's/^((HTTPS?|ALL)_PROXY|(https?|all)_proxy)=.+/, the proxy in \1/p' | tr -d '\n'), and type the same again" >&2; exit 1; }
	@touch $@

.PHONY: help lab test check run reset refresh site slides bench changes gpu newest mutants clean setup writable
