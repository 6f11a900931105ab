.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
GPU_VENV ?= .venv-gpu
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help prometheus asyncapi strimzi demo loop test chaos delivery k8s-check compose-check constraints tensorrt-check gpu-check lint clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(VENV)/pip:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/demo: pyproject.toml | $(VENV)/pip
	$(PIP) install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/loop: pyproject.toml | $(VENV)/pip
	$(PIP) install --quiet --editable '.[demo,labels,tracking,train]'
	@touch $@ $(VENV)/demo

$(VENV)/test: pyproject.toml | $(VENV)/pip
	$(PIP) install --quiet --editable '.[demo,drift,feeds,labels,s3,state,tracing,tracking,train,test]'
	@touch $@ $(VENV)/demo $(VENV)/loop

# Of its own: onnxruntime-gpu has the same files as onnxruntime, which the package asks for, and comes in its place.
$(GPU_VENV)/gpu: pyproject.toml
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --editable '.[gpu,train]'
	$(GPU_VENV)/bin/python -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
	$(GPU_VENV)/bin/python -m pip install --quiet 'onnxruntime-gpu[cuda,cudnn]>=1.24,<2'
	@touch $@

$(VENV)/bin/prometheus: | $(VENV)/pip
	cd $(VENV) && apt-get download prometheus && dpkg-deb --extract prometheus_*.deb debian
	mv $(VENV)/debian/usr/bin/prom* $(BIN)/
	rm -r $(VENV)/debian $(VENV)/prometheus_*.deb

prometheus: $(VENV)/bin/prometheus ## Debian's Prometheus and promtool, for the tests that ask them; nothing is started

$(VENV)/asyncapi/node_modules: | $(VENV)/pip
	npm install --prefix $(VENV)/asyncapi --no-save --no-audit --no-fund --ignore-scripts @asyncapi/parser@3.6.3

asyncapi: $(VENV)/asyncapi/node_modules ## The official AsyncAPI parser (npm), for the test that asks it

$(VENV)/strimzi/node_modules: | $(VENV)/pip
	npm install --prefix $(VENV)/strimzi --no-save --no-audit --no-fund --ignore-scripts \
		@kubernetes-models/strimzi-kafka-operator@1.0.1

strimzi: $(VENV)/strimzi/node_modules ## Strimzi's CRDs as validators (npm), for the test that asks them

demo: $(VENV)/demo ## Install and run the whole system on this machine; options in ARGS="--events 500 --seed 7"
	$(BIN)/streamer demo $(ARGS)

loop: $(VENV)/loop ## Labels, a retraining, the gate and a swap under load on this machine, in 10 to 25 minutes; ARGS="--seed 7"
	$(BIN)/streamer loop $(ARGS)

test: $(VENV)/test ## Install and run the tests; options in ARGS="-k batch"
	$(BIN)/python -m pytest $(ARGS)

chaos: $(VENV)/test ## Every fault on a real Kafka (KAFKA_HOME), ten runs of each; ARGS="--faults kill,cut --runs 2 --minutes 30"
	$(BIN)/python -m tests.chaos $(ARGS)

delivery: ## Kill, stop and add workers on a real Kafka (KAFKA_HOME), RUNS=10 of each
	$(MAKE) chaos ARGS="--faults kill,terminate,scale --events 20000 --runs $(or $(RUNS),10)"

k8s-check: $(VENV)/test ## Manifests against their schemas and the settings, queries against the metrics, thresholds
	$(BIN)/python -m pytest tests/deploy --ignore tests/deploy/test_containers.py

constraints: $(VENV)/pip ## Pin anew what the images install, docker/constraints.txt
	$(PIP) install --dry-run --quiet --ignore-installed --report $(VENV)/images.json '.[drift,feeds,labels,s3,tracing,tracking,train]'
	$(BIN)/python docker/constraints.py $(VENV)/images.json > docker/constraints.txt

compose-check: $(VENV)/test ## Dockerfiles and docker-compose.yml
	$(BIN)/python -m pytest tests/deploy/test_containers.py

tensorrt-check: $(VENV)/test ## Plans of every family without a GPU, the GPU engine on a strict fake, TensorRT's API
	$(BIN)/python -m pytest tests/gpu $(ARGS)

gpu-check: $(GPU_VENV)/gpu ## On a GPU machine: parity, throughput, cold start, memory, a 10-minute soak; ARGS="--soak-s 60"
	$(GPU_VENV)/bin/python benchmarks/gpu_check.py $(ARGS)

lint: $(VENV)/test ## Format, lint, types and import boundaries
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright

clean: ## Remove the environment and what the commands wrote
	rm -rf $(VENV) $(GPU_VENV) demo-report loop-report state gpu-check chaos.json build *.egg-info
