# NovaNet on a Debian or Ubuntu machine, from nothing: `make run`, `make test`. `make help` lists everything.
# Every command installs what it needs, and only what is missing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE := .cache
STAMP := $(VENV)/installed
WORKERS ?= 4
PYTEST_ARGS ?=
TESTS := $(wildcard tests/unit tests/switch tests/lab tests/chaos tests/scale)
OVS_TESTS := $(wildcard tests/switch tests/lab tests/chaos)
C_FILES := $(wildcard pipelines/slots/*.c novanet_apps/telemetry/collector/fast/*.[ch])
CODE := topology pipelines novanet_apps tools tests setup.py

# Labs are made of network namespaces: that needs root. Nothing else does.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
AS_ROOT := $(if $(SUDO),sudo -E)

PACKAGES := openvswitch-switch openvswitch-common iproute2 iputils-ping ethtool tcpdump tshark iperf3 openssl python3-venv
# What VMs of the lab run: DHCP clients, and what asks a network's services. Only dnsmasq is a server, and none is started.
PACKAGES += isc-dhcp-client udhcpc dhcpcd-base bind9-dnsutils ndisc6 traceroute socat dnsmasq-base
# What compiles C_FILES; without, tables of load balancers are made thirty times slower, and flows are collected so.
PACKAGES += gcc libc6-dev

# Ryu is built by an old setuptools; pip takes it from the one variable or the other, depending on its age.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_USE_PEP517 := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup packages run test lint format test-scale test-matrix test-trixie test-forky bench docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## install what is missing: Debian packages, and .venv with NovaNet in it
	@echo "ready: $(BIN)/ryu-manager novanet_apps.all, $(BIN)/novanet, $(BIN)/novanet-lab"

packages:
	@command -v dpkg-query >/dev/null || { echo "this needs Debian or Ubuntu; elsewhere install yourself: $(PACKAGES)" >&2; exit 1; }
	@missing=(); for name in $(PACKAGES); do \
	  [ "$$(dpkg-query -W -f '$${db:Status-Status}' $$name 2>/dev/null || true)" = installed ] || missing+=($$name); done; \
	if [ $${#missing[@]} -gt 0 ]; then \
	  echo "installing Debian packages: $${missing[*]}"; \
	  $(SUDO) apt-get -qq -o DPkg::Lock::Timeout=300 update; \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 --no-install-recommends install "$${missing[@]}"; \
	fi

$(STAMP): setup.cfg setup.py pyproject.toml constraints.txt $(C_FILES) | packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1): NovaNet needs Python 3.10 to 3.13; name one with PYTHON=…" >&2; exit 1; }
	@[ -x $(BIN)/python ] || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing Python packages into $(VENV)"
	@$(BIN)/python -m pip install -q --editable '.[test,telemetry,anomalies]'
# Ryu's package has a command of the same name as ours; the package that is installed last has it (docs/decisions/0001).
	@grep -q novanet_apps $(BIN)/ryu-manager || $(BIN)/python -m pip install -q --no-deps --force-reinstall --editable .
	@grep -q novanet_apps $(BIN)/ryu-manager || { echo "$(BIN)/ryu-manager is not NovaNet's" >&2; exit 1; }
	@touch $@

run: $(STAMP) ## the whole system on this machine, with a lab of three hypervisors, until Ctrl-C (ONCE=1: prove it and end)
	@$(AS_ROOT) $(BIN)/python -m tools.run

test: lint ## every test, on the installed Open vSwitch (PYTEST_ARGS="-k name", WORKERS=4)
	$(AS_ROOT) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS) $(TESTS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

format: $(STAMP) ## let ruff put the code in order
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

test-scale: $(STAMP) ## the scale tests with 10,000 ports (make test runs them with 1,000)
	$(AS_ROOT) env NOVANET_SCALE_PORTS=10000 $(BIN)/python -m pytest --timeout 1800 $(PYTEST_ARGS) tests/scale

test-matrix: test-trixie test-forky ## the tests that use Open vSwitch, on 3.5 and 4.0 (fetched into .cache)

test-trixie test-forky: test-%: $(CACHE)/ovs-%/bin/ovs-vswitchd
	@$< --version | head -n 1
	$(AS_ROOT) env NOVANET_OVS_BINDIR="$(CURDIR)/$(dir $<)" $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS) $(OVS_TESTS)

$(CACHE)/ovs-%/bin/ovs-vswitchd: | $(STAMP)
	$(BIN)/python -m tools.lab.fetch_ovs $* $(CACHE)/ovs-$*

bench: $(STAMP) ## benchmarks, one JSON object a line (NAME=flow_install for one of them)
	@$(AS_ROOT) $(BIN)/python -m tools.bench $(NAME)

docs: $(STAMP) ## write the pages of docs/ that are generated
	@$(BIN)/python -m tools.docs

clean: ## remove dead labs, .venv, .cache and what tools left in the tree
	@[ ! -x $(BIN)/python ] || $(AS_ROOT) $(BIN)/python -m tools.lab clean
	@$(SUDO) rm -rf $(VENV) $(CACHE) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@$(SUDO) find $(CODE) \( -name __pycache__ -o -name '*.so' \) -prune -exec rm -rf {} +
