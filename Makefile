PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .stamps
JARS := .skustream/kafka-jars

.PHONY: help setup demo test test-long live-test lint clean

help:
	@echo "make setup      virtual environment, dependencies, Kafka jars (all other targets do it)"
	@echo "make demo       two shops sell the same units for a minute on real Kafka, and everything is checked"
	@echo "make test       lint, types and all tests, on a real local Kafka broker"
	@echo "make test-long  also the long chaos and fuzz runs"
	@echo "make live-test  the contract with Shopify, asked of a development store (docs/live-test.md)"

setup: $(STAMPS)/venv $(STAMPS)/kafka

$(STAMPS)/venv: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "skustream needs Python 3.11 or newer; 'make PYTHON=python3.11 ...' names another one"; exit 1; }
	@mkdir -p $(STAMPS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(STAMPS)/kafka: ops/kafka/pom.xml
	@command -v java >/dev/null || { echo "Java 17 is missing: install openjdk-17-jre-headless (Debian) or Temurin 17"; exit 1; }
	@command -v mvn >/dev/null || { echo "Maven is missing: install maven (Debian: apt-get install maven)"; exit 1; }
	@mkdir -p $(STAMPS) $(JARS)
	mvn -q -B -f ops/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory=$(abspath $(JARS))
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: setup
	$(BIN)/skustream demo

test: lint
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-long: lint
	$(BIN)/pytest -q -m ""

live-test: setup
	LIVE_TEST=1 $(BIN)/pytest -q -rs tests/live

clean:
	rm -rf $(VENV) $(STAMPS) .skustream
