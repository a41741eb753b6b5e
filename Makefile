# The few commands of everyday work. Each sets up what it needs first; all may be repeated, and are quick the second time.
VENV ?= .venv
HOST ?= localhost
PORT ?= 8000
BIN := $(VENV)/bin

.PHONY: setup clients run serve test test-fast fuzz lint types bench

setup:
	@scripts/setup_environment.sh "$(VENV)"

# Third-party clients, which the live tests run against Atrium.
clients: setup
	@scripts/setup_clients.sh "$(VENV)"

# The demo model on this machine: prints the address, the admin's login and an API key.
run: setup
	@$(BIN)/python manage.py serve --host "$(HOST)" --port "$(PORT)"

# The same with any model and flags: make serve ARGS="Qwen/Qwen3-4B --dtype bfloat16"
serve: setup
	@$(BIN)/python manage.py serve --host "$(HOST)" --port "$(PORT)" $(ARGS)

test: setup clients lint types
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-fast: setup
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

# Thousands of requests made of the OpenAPI document, against real servers; a seed repeats them.
fuzz: setup
	$(BIN)/python -m tests.schema_fuzz --requests 5000 $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy apps project gpu_worker

bench: setup
	$(BIN)/python -m bench.gateway
	$(BIN)/python -m bench.engine
