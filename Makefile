# The two commands: `make run` and `make test`. Everything is installed into .venv.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url
# Tests wait for processes to start as often as they compute: two at a time, each with its own
# database and broker servers. In the order of their folders: by the number of their tests, the files
# with the longest ones would come last, and one process would run them alone.
TEST_PROCESSES ?= 2
RUN_STAMP := .venv/.installed-run
DEV_STAMP := .venv/.installed-dev

.PHONY: help
help:
	@echo 'make run      install, then start the whole service on http://127.0.0.1:8000'
	@echo 'make install  only the installation, into .venv'
	@echo 'make test     every test, with real services and a browser; nothing is skipped'
	@echo 'make chaos    harm to a loaded service, over and over, and a table (see ARGS=--help)'
	@echo 'make check    format, lint, types and every test'
	@echo 'make lint     format, lint and types without the tests; make format mends what it can'
	@echo 'make docs     write anew what is generated in docs/, and the answers its pages show'
	@echo 'make screenshots  take the pictures in docs/screenshots anew'
	@echo 'make lock     write requirements/ anew from pyproject.toml (needs uv)'

.PHONY: run
run: install
	@exec $(BIN)/classify up

.PHONY: install
install: $(RUN_STAMP)

# A virtual environment whose Python is gone, or that was cut off half-way, is made anew.
define make_venv
@python=$$(PYTHON="$(PYTHON)" scripts/preflight) || exit 1; \
if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	echo "Making .venv with $$python"; \
	"$$python" -m venv --clear .venv; \
fi
endef

# --no-build-isolation: the build backend comes from the lock, with its hash, like all the rest.
define install_from
@echo "Installing $(1) into .venv (a few minutes the first time)"
@$(PIP) install --quiet --require-hashes -r $(1)
@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
endef

$(RUN_STAMP): requirements/run.txt pyproject.toml
	$(make_venv)
	$(call install_from,requirements/run.txt)
	@touch $@

$(DEV_STAMP): requirements/dev.txt requirements/run.txt pyproject.toml
	$(make_venv)
	$(call install_from,requirements/dev.txt)
	@touch $(RUN_STAMP) $@

.PHONY: test
test: $(DEV_STAMP)
	@scripts/install-browser >/dev/null
	$(BIN)/python -m pytest --require-services -n $(TEST_PROCESSES) --dist loadfile \
		--no-loadscope-reorder $(ARGS)

.PHONY: chaos
chaos: $(DEV_STAMP)
	$(BIN)/python -m tests.chaos.campaign $(ARGS)

.PHONY: lint
lint: $(DEV_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: check
check: lint test

.PHONY: format
format: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: docs
docs: $(DEV_STAMP)
	$(BIN)/python -m scripts.settings_page
	WRITE_DOCS=1 $(BIN)/python -m pytest --require-services tests/docs

.PHONY: screenshots
screenshots: $(DEV_STAMP)
	$(BIN)/python -m scripts.screenshots

# Names, versions and hashes only: no addresses.
.PHONY: lock
lock:
	$(LOCK) pyproject.toml --group build -o requirements/run.txt
	$(LOCK) pyproject.toml --group dev -c requirements/run.txt -o requirements/dev.txt
	@! grep -nE '://|^-' requirements/*.txt
