# CPython 3.11 with venv is all that these need; they set up the rest in .venv.
#   make run           serve on 127.0.0.1:8000, with servers of its own where none are set
#   make test          run every test but the next two kinds
#   make test-security try bad inputs of every kind, and print how many were answered as promised
#   make test-chaos    break running processes in every way, and print what survives what
#   make fuzz          spoil media files for ten minutes and see what the decoder makes of them
#   make check         lint and type-check
#   make chaos         break a running service at random (JOBS=300 SEED=1), and count what is lost
#   make bench         measure, and print ratios
#   make lock          choose the versions and digests of all packages anew, after requirements*.txt
#   make test-browser  look at the page in Chromium
#   make test-compose  build the Compose stack, use it, take it down (needs Docker)

PYTHON ?= python3
# PyTorch's CPU index, where its default build would bring CUDA; pip's own settings apply as well.
TORCH_INDEX ?=
PIP = .venv/bin/python -m pip --disable-pip-version-check --quiet
# the locks are complete: nothing is installed that they do not name with its digest
INSTALL = $(PIP) install --no-deps --require-hashes $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: run test test-security test-browser test-chaos chaos fuzz check bench test-compose lock clean

run: .venv/run
	@exec .venv/bin/python serve.py

test: .venv/dev
	@CI="$${CI:-}" .venv/bin/python -m pytest -m 'not compose and not chaos and not browser' -n auto --dist worksteal --cov --cov-report=term:skip-covered $(ARGS)

check: .venv/dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy .

test-security: .venv/dev
	.venv/bin/python -m pytest -p tests.bad_inputs -m 'security and not compose' -n auto --dist worksteal $(ARGS)

test-browser: .venv/dev
	.venv/bin/python -m pytest -m browser tests/browser -n 2 --dist worksteal $(ARGS)

test-chaos: .venv/dev
	.venv/bin/python -m pytest -m chaos tests/chaos -n 2 --dist worksteal $(ARGS)

chaos: .venv/dev
	.venv/bin/python -m soak --jobs $(or $(JOBS),300) --seed $(or $(SEED),1) $(ARGS)

fuzz: .venv/dev
	nice .venv/bin/python -m tests.fuzz --keep .local/findings $(ARGS)

bench: .venv/dev
	.venv/bin/python -m bench $(ARGS)

test-compose: .venv/dev
	.venv/bin/python -m pytest -m compose tests/compose $(ARGS)

lock: .venv/dev
	.venv/bin/python -m locks

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache htmlcov .coverage*

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...")'
	@echo "Making a virtual environment in .venv ..."
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/run: .venv/python locks/worker.txt locks/local.txt locks/torch.txt locks/torch-cpu.txt
	@echo "Installing into .venv (the first time takes some minutes) ..."
	@$(INSTALL) -r locks/worker.txt -r locks/local.txt
	@$(INSTALL) -r locks/torch-cpu.txt 2>&- || $(INSTALL) -r locks/torch.txt
	@touch $@

.venv/dev: .venv/run locks/dev.txt
	@echo "Installing what the tests need ..."
	@$(INSTALL) -r locks/dev.txt
	@touch $@
