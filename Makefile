# GNU make. `make help` lists what there is; everything lands in .venv, nothing in the home directory is needed.

UV_VERSION := 0.13.9
PYTHON     ?= python3
VENV       := .venv
BIN        := $(VENV)/bin
# A network whose own authority signs the traffic has it in the system's store; a bare machine has no such store.
CERTS      := $(wildcard /etc/ssl/certs/ca-certificates.crt)
UV_CERTS   := $(if $(CERTS),UV_SYSTEM_CERTS=1)
NPM        := $(if $(CERTS),NODE_EXTRA_CA_CERTS=$(CERTS)) npm
UV         := UV_PYTHON_DOWNLOADS=never $(UV_CERTS) $(BIN)/uv
UV_STAMP   := $(VENV)/.uv-$(UV_VERSION)
ENV_STAMP  := $(VENV)/.installed

# Programs the tests run beside the hub, each with the Debian package it comes from.
PROGRAMS   := mosquitto:mosquitto mosquitto_pub:mosquitto-clients redis-server:redis-server postgres:postgresql \
              node:nodejs npm:npm chromium:chromium nginx:nginx
MQTT_JS    := tests/interop/node_modules

# Debian keeps servers in /usr/sbin, which is not on everybody's path, and PostgreSQL's by version.
SERVERS    := /usr/sbin:/sbin:$(lastword $(sort $(wildcard /usr/lib/postgresql/*/bin)))
export PATH := $(PATH):$(SERVERS)

# How this user may act as root: as itself, by sudo without a password, or not at all ("no").
AS_ROOT     = $(shell if [ "$$(id -u)" = 0 ]; then echo env; elif sudo -n true 2>/dev/null; then echo sudo env; else echo no; fi)

.DEFAULT_GOAL := help
.PHONY: help env run test check format bench soak chaos simulate lock programs packages clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(ENV_STAMP) ## make the environment in .venv

run: env ## start the hub with a demo farm (ARGS="--http-port 8081")
	@exec $(BIN)/feeder-hub serve --demo $(ARGS)

test: env programs ## run every test (ARGS="tests/hub -k valkey")
	@exec $(BIN)/python -m pytest $(ARGS)

check: env ## formatting, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: env ## format the sources
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: env programs ## measure, side by side (ARGS="broker --rounds 3")
	@exec $(BIN)/python -m benchmarks $(ARGS)

soak: env ## a thousand clients that come and go (ARGS="--minutes 1 --kill")
	@exec $(BIN)/python -m benchmarks.soak $(ARGS)

chaos: env programs ## break one part after the other (ARGS="--faults 20 --seed 2")
	@exec $(BIN)/python -m tests.chaos $(ARGS)

simulate: env ## the hub and a farm in virtual time, with every fault (SEEDS=300 ARGS="--seed 17")
	@exec $(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),200) $(ARGS)

lock: $(UV_STAMP) ## compile requirements.lock anew (ARGS=--upgrade)
	$(UV) pip compile pyproject.toml --output-file requirements.lock --quiet --universal --python-version 3.11 \
		--extra dev --extra postgres --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" $(ARGS)

clean: ## remove the environment and the caches; the data directory stays
	rm -rf $(VENV) $(MQTT_JS) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --no-build-isolation: the build backend is in the lock; nothing unlocked is fetched.
$(ENV_STAMP): $(UV_STAMP) requirements.lock pyproject.toml
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

$(UV_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Feeder Hub needs Python 3.11 or newer as $(PYTHON); name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		case "$(AS_ROOT)" in \
		no) echo "$(PYTHON) lacks venv. Run: sudo apt-get install python3-venv" >&2; exit 1;; \
		*) command -v apt-get >/dev/null || { echo "$(PYTHON) lacks venv, and there is no apt-get to install it with." >&2; exit 1; }; \
		   $(call apt_install,python3-venv);; \
		esac; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

programs: $(MQTT_JS)

$(MQTT_JS): tests/interop/package-lock.json | packages
	@command -v npm >/dev/null || exit 0; \
	$(NPM) ci --prefix $(@D) --cache $(CURDIR)/$(VENV)/.npm --no-audit --no-fund --no-update-notifier --loglevel=error >/dev/null && touch $@ || \
		echo "*** MQTT.js cannot be fetched: its tests are SKIPPED." >&2

packages: # what the tests run beside the hub, installed where that is allowed
	@missing=""; for each in $(PROGRAMS); do command -v $${each%:*} >/dev/null || missing="$$missing $${each#*:}"; done; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$(AS_ROOT)" != no ] && command -v apt-get >/dev/null; then \
		echo "Installing for the tests:$$missing"; \
		if $(call apt_install,$$missing); then exit 0; fi; \
	fi; \
	echo "****************************************************************************" >&2; \
	echo "*** Missing:$$missing" >&2; \
	echo "*** The tests that need them are SKIPPED. To run them all:" >&2; \
	echo "***     sudo apt-get install$$missing" >&2; \
	echo "****************************************************************************" >&2

# Debian starts a server as soon as it is installed, on the port a hub may want; policy-rc.d 101 forbids it. One
# that is there already is put back afterwards.
define apt_install
$(AS_ROOT) DEBIAN_FRONTEND=noninteractive WANTED="$(1)" sh -c ' \
	policy=/usr/sbin/policy-rc.d; kept=$$policy.before-feeder-hub; \
	restore() { rm -f $$policy; [ ! -e $$kept ] || mv $$kept $$policy; }; \
	trap restore EXIT; trap "exit 130" INT TERM; \
	[ ! -e $$policy ] || mv $$policy $$kept; \
	printf "#!/bin/sh\nexit 101\n" > $$policy; chmod 755 $$policy; \
	ls /var/lib/apt/lists/*Packages* >/dev/null 2>&1 || apt-get update -qq; \
	apt-get install -y -qq --no-install-recommends $$WANTED >/dev/null || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $$WANTED >/dev/null; }'
endef
