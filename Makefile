PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

# What the same code computed before is kept in reproduced/ and not computed again; so is the file of
# BurstGPT lengths, which is fetched where a table needs it. Without a network the rest is made.
REPRODUCE := $(BIN)/python -m benchmarks.reproduce --docs docs --burstgpt fetch

.PHONY: setup demo demo-serve test lint docs bench reproduce chaos fuzz dist clean vllm-rig test-vllm bench-vllm rayllm
.PHONY: reproduce-br-table reproduce-br-causes reproduce-br-scaling reproduce-br-sensitivity reproduce-dpr-overhead reproduce-dpr-scaling \
  reproduce-dpr-points reproduce-bfio-peer reproduce-bfio-slots reproduce-bfio-workers reproduce-bfio-horizon

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

# Compares routers on embedded workloads: where ranks compute prompts themselves, and where prompts
# come computed. Leaves demo-report/report.html and demo-report/elsewhere/report.html to open.
demo: $(STAMP)
	$(BIN)/brsolver compare preset:chat:n=3000 --policies vllm,jsq-load,br-0,br-t \
	  --prefill colocated --hardware minimax-m2.7-h200-dp4 \
	  --workers 8 --slots 64 --baseline vllm --out demo-report
	$(BIN)/brsolver compare preset:proprietary-like:n=3000 \
	  --policies vllm,jsq-load,fast-phi,br-0:r_max=4,br-0,br-h \
	  --workers 8 --slots 64 --baseline vllm --out demo-report/elsewhere
	@echo "Open demo-report/report.html"

# Fake engines, Envoy, the picker and a load client on this machine; the same traffic under vLLM's
# rule and under br-t, beside what the simulator foretells. Prints the address of the live page.
demo-serve: $(STAMP)
	$(BIN)/python -m integration.serve.demo

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --durations=15

# Workers that die, hang, reset and talk nonsense under load, and a picker that is killed and frozen.
chaos: $(STAMP)
	$(BIN)/python -m pytest -n0 -m chaos -s tests/integration

# Bodies and headers that nobody should send: no 5xx of the front door's own making.
fuzz: $(STAMP)
	$(BIN)/python -m pytest -n0 -m fuzz -s tests/integration

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Documentation, with its notebooks executed: site/index.html. Warnings are errors.
# MyST-NB leaves copies of the notebooks beside the site.
docs: $(STAMP)
	rm -rf site
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --nitpicky --fresh-env \
	  --doctree-dir site/.doctrees docs site
	@rm -rf jupyter_execute
	@echo "Open site/index.html"

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# Published tables and figures, rebuilt into docs/reproduce.md and docs/images; all, or one of them.
reproduce: $(STAMP)
	$(REPRODUCE)

reproduce-br-table: $(STAMP)
	$(REPRODUCE) br-table

reproduce-br-causes: $(STAMP)
	$(REPRODUCE) br-causes

reproduce-br-scaling: $(STAMP)
	$(REPRODUCE) br-scaling

reproduce-br-sensitivity: $(STAMP)
	$(REPRODUCE) br-sensitivity

reproduce-dpr-overhead: $(STAMP)
	$(REPRODUCE) dpr-overhead

reproduce-dpr-scaling: $(STAMP)
	$(REPRODUCE) dpr-scaling

reproduce-dpr-points: $(STAMP)
	$(REPRODUCE) dpr-points

reproduce-bfio-peer: $(STAMP)
	$(REPRODUCE) bfio-peer

reproduce-bfio-slots: $(STAMP)
	$(REPRODUCE) bfio-slots

reproduce-bfio-workers: $(STAMP)
	$(REPRODUCE) bfio-workers

reproduce-bfio-horizon: $(STAMP)
	$(REPRODUCE) bfio-horizon

# A real vLLM on CPU (docs/vllm-rig.md), in .vllm-rig or where BRSOLVER_VLLM_RIG says. Where its
# wheels cannot be had, the tests are skipped and say so; everything else fails as usual.
vllm-rig:
	@$(PYTHON) tests/integration/rig/environment.py

test-vllm:
	@rig=$$($(PYTHON) tests/integration/rig/environment.py); status=$$?; \
	if [ $$status -eq 3 ]; then echo "test-vllm: skipped, the rig cannot be had here"; exit 0; fi; \
	[ $$status -eq 0 ] && NUMBA_CACHE_DIR=$$(dirname $$rig)/../numba $$rig -m pytest -m vllm --timeout 900 --durations=15 -ra tests/integration

# An application of Ray Serve LLM with that vLLM (docs/ray-serve.md). Ray Serve is put into the rig.
rayllm:
	@rig=$$($(PYTHON) tests/integration/rig/environment.py); status=$$?; \
	if [ $$status -eq 3 ]; then echo "rayllm: skipped, the rig cannot be had here"; exit 0; fi; \
	[ $$status -eq 0 ] && $$(dirname $$rig)/uv pip install --quiet --python $$rig 'ray[serve]>=2.60' && \
	NUMBA_CACHE_DIR=$$(dirname $$rig)/../numba $$rig -m pytest -m rayllm --timeout 900 --durations=5 -ra tests/integration/test_ray_serve_llm.py

bench-vllm:
	@rig=$$($(PYTHON) tests/integration/rig/environment.py) && \
	NUMBA_CACHE_DIR=$$(dirname $$rig)/../numba PYTHONPATH=tests/integration:. $$rig -m benchmarks.bench_vllm

dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .

# Compiled kernels do not notice changes in other files they call.
clean:
	find brsolver baselines classifiers integration -name '*.nb[ic]' -delete
	rm -rf dist site jupyter_execute demo-report .mypy_cache .ruff_cache .pytest_cache .hypothesis
