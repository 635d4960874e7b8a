# `make help` lists the targets. Nothing is needed before them but Python 3.11+ with venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: soak test-tools test-kills test-long outages test-syscalls reliability bench bench-smoke bench-publish bench-profile bench-transport help run demo test check format docs lock audit screenshots clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.runtime: requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements.txt requirements-dev.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes -r requirements-dev.txt
	@touch $@ $(VENV)/.runtime

run: $(VENV)/.runtime ## the server on http://localhost:5000, with an embedded S3 store unless STORAGE_URL is set
	@exec $(BIN)/python server.py

demo: $(VENV)/.dev ## one sync of thousands of files through HTTP, watched to its end and checked with rclone
	@$(BIN)/python scripts/demo.py

$(VENV)/.chromium: $(VENV)/.dev
	@command -v chromium >/dev/null || { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
		apt-get -qq install -y --no-install-recommends chromium >/dev/null; } || \
		{ echo "the tests need Chromium: install Debian's package chromium as root" >&2; exit 1; }
	@touch $@

# Unpacked, not installed: Debian's package would start a Prometheus.
$(VENV)/promtool: $(VENV)/.dev
	@cd $(VENV) && rm -f prometheus_*.deb && { apt-get -qq download prometheus 2>/dev/null || \
		{ apt-get -qq update && apt-get -qq download prometheus; } } && \
		dpkg-deb --fsys-tarfile prometheus_*.deb | tar -xO ./usr/bin/promtool > promtool.new && \
		chmod +x promtool.new && rm prometheus_*.deb && mv promtool.new promtool || \
		{ echo "the tests need promtool, from Debian's package prometheus" >&2; exit 1; }

# Looks at the dashboard in tests, and is no part of what is installed.
AXE := $(VENV)/npm/node_modules/axe-core/axe.min.js
$(AXE):
	@command -v npm >/dev/null || { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
		apt-get -qq install -y --no-install-recommends npm >/dev/null; } || \
		{ echo "the tests need axe-core from npm: install Debian's package npm as root" >&2; exit 1; }
	@mkdir -p $(VENV)/npm && cd $(VENV)/npm && npm install --no-audit --no-fund --silent --ignore-scripts axe-core@4.14.1

# Kills and fails processes at their system calls.
$(VENV)/.strace: $(VENV)/.dev
	@command -v strace >/dev/null || { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
		apt-get -qq install -y --no-install-recommends strace >/dev/null; } || \
		{ echo "the tests need strace: install Debian's package strace as root" >&2; exit 1; }
	@touch $@

# Stand in front of the server in tests.
$(VENV)/.nginx: $(VENV)/.dev
	@test -x /usr/sbin/nginx || { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
		apt-get -qq install -y --no-install-recommends nginx >/dev/null; } || \
		{ echo "the tests need nginx: install Debian's package nginx as root" >&2; exit 1; }
	@touch $@

$(VENV)/.caddy: $(VENV)/.dev
	@command -v caddy >/dev/null || { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
		apt-get -qq install -y --no-install-recommends caddy >/dev/null; } || \
		{ echo "the tests need caddy: install Debian's package caddy as root" >&2; exit 1; }
	@touch $@

screenshots: $(VENV)/.dev $(VENV)/.chromium $(AXE) ## take the pictures in docs/screenshots again
	SCREENSHOTS=docs/screenshots $(BIN)/python -m pytest -q tests/e2e/test_dashboard.py tests/e2e/test_dashboard_pictures.py -k pictures

# Tests wait more than they work: for stores, workers, a browser. Files go out in the order of their folders, so
# that the quick ones of tests/unit come last and none keeps the others waiting at the end.
TESTERS ?= 2
TEST_TOOLS := $(VENV)/.dev $(VENV)/.chromium $(VENV)/promtool $(VENV)/.strace $(VENV)/.nginx $(AXE)
test: $(TEST_TOOLS) ## the tests, those against real S3 servers and in a real Chromium included; the longest apart
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder --durations=15 -m "not long"

test-tools: $(TEST_TOOLS)
	@:

test-long: $(VENV)/.dev $(VENV)/.chromium $(VENV)/.nginx $(VENV)/.caddy $(AXE) ## rates held for ten seconds, a year of mirrors, disasters beside the peers; random changes, kills and requests in full number
	$(BIN)/python -m pytest --durations=15 -m long

test-syscalls: $(VENV)/.dev $(VENV)/.strace ## worker, shell and server killed at, and failed in, each of their system calls on jobs/
	SYSCALLS=all $(BIN)/python -m pytest -s tests/faults/test_syscalls.py

ROUNDS ?= 200
soak: $(VENV)/.dev ## changes, syncs, kill -9 at random instants: ROUNDS=200, SEED=… to repeat a run, STORE=seaweedfs
	@$(BIN)/python tests/support/soak.py --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) $(if $(STORE),--store $(STORE))

test-kills: $(VENV)/.dev ## members of a cluster, and its job, killed or frozen at 20 random instants each, or KILLS=100; SEED=… to repeat
	ROUNDS=$(or $(KILLS),20) $(if $(SEED),SEED=$(SEED)) $(BIN)/python -m pytest -s -q tests/faults/test_cluster_kills.py

STORES ?= juicefs or seaweedfs or rclone
outages: $(VENV)/.dev ## a storage that is away for a minute in each phase of a job: an hour, or STORES=rclone OUTAGE_SECONDS=20
	@OUTAGE_SECONDS=$(or $(OUTAGE_SECONDS),60) $(BIN)/python -m pytest -s -q tests/faults/outages.py -k "$(STORES)"

reliability: $(VENV)/.dev ## write the tables of docs/reliability.md again, from the tests that make the faults
	RELIABILITY=write $(BIN)/python -m pytest -q tests/faults/test_fault_table.py tests/faults/test_differential.py \
		tests/faults/test_disasters.py

check: $(VENV)/.dev ## lint, format, types, imports between rooms, dangerous calls, known holes in what is installed, check-deploy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python scripts/audit.py
	@$(MAKE) --no-print-directory check-deploy

format: $(VENV)/.dev ## rewrite the code in the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

LOCK := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock"

docs: $(VENV)/.dev ## write docs/api.md and docs/troubleshooting.md again, and the transcripts of docs/tutorial.md
	$(BIN)/python scripts/api_docs.py
	$(BIN)/python scripts/error_docs.py
	$(BIN)/python scripts/tutorial.py

lock: $(VENV)/.dev ## pin all versions and hashes again, from the requirements*.in
	$(LOCK) requirements.in -o requirements.txt
	$(LOCK) requirements-dev.in -o requirements-dev.txt
	$(LOCK) requirements-cluster.in -c requirements-dev.txt -o requirements-cluster.txt
	$(LOCK) requirements-bench.in -c requirements-dev.txt -o requirements-bench.txt
	$(LOCK) requirements-deploy.in -o requirements-deploy.txt
	$(LOCK) requirements-transport.in -o requirements-transport.txt

$(VENV)/.stub: $(VENV)/.dev
	@{ command -v wrk && test -x /usr/sbin/nginx && test -e /usr/lib/nginx/modules/ngx_http_lua_module.so; } \
		>/dev/null || { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
		nginx libnginx-mod-http-lua wrk >/dev/null; } || \
		{ echo "as root: apt-get install nginx libnginx-mod-http-lua wrk" >&2; exit 1; }
	@touch $@

$(VENV)/.bench: $(VENV)/.dev requirements-bench.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes -r requirements-bench.txt
	@touch $@

RUNS ?= 5
SCALE ?= 1
BENCH := $(BIN)/python -m benchmarks
bench: $(VENV)/.stub $(VENV)/.bench ## beside s5cmd, rclone, juicefs, aws: all, or SCENARIO="small-stub resume" RUNS=3 SCALE=0.1
	@$(BENCH) $(SCENARIO) --runs $(RUNS) --scale $(SCALE)

bench-smoke: $(VENV)/.stub $(VENV)/.bench ## every scenario, tiny: that the benchmarks work, not how fast anything is
	@$(BENCH) --runs 1 --scale 0.01

bench-publish: $(VENV)/.bench ## results of full size into docs/benchmarks.md, its chart and its JSON
	@$(BENCH) publish

bench-profile: $(VENV)/.stub $(VENV)/.bench ## where the time of ours goes: SCENARIO=small-stub (py-spy)
	@$(BIN)/python -m benchmarks.profile $(or $(SCENARIO),small-stub) --scale $(SCALE)

# aiobotocore pins another botocore than boto3 does: it and obstore get an environment of their own.
PEERS := $(VENV)/transport

$(PEERS)/.tools: requirements-transport.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check -q --require-hashes -r requirements-transport.txt
	@touch $@

bench-transport: $(VENV)/.stub $(VENV)/.bench $(PEERS)/.tools ## 10,000 PUTs by our transport, awscrt, boto3, aiobotocore and obstore
	@$(BIN)/python -m benchmarks.transport --runs $(RUNS) --peers $(PEERS)/bin/python

audit: $(VENV)/.dev ## ask PyPI's database of known holes about all that is installed (needs the network)
	$(BIN)/uv tool run pip-audit==2.10.1 --strict --disable-pip --require-hashes -r requirements-dev.txt

clean: ## remove the virtual environment and caches; never uploads, jobs or storage
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The tools of the deployment have dependencies of their own: they get an environment of their own.
DEPLOY := $(VENV)/deploy

$(DEPLOY)/.tools: requirements-deploy.txt
	@test -x $(DEPLOY)/bin/python || $(PYTHON) -m venv $(DEPLOY)
	$(DEPLOY)/bin/python -m pip install --disable-pip-version-check -q --require-hashes -r requirements-deploy.txt
	@touch $@

# What check-deploy reads: it is quick when nothing of it has changed since it was last found well.
DEPLOYED := Dockerfile .dockerignore docker-compose.yml Vagrantfile .ansible-lint requirements-deploy.txt \
	tests_deploy/check.py tests_deploy/machine.py \
	$(shell find docker deploy ansible tests_deploy/minio -type f -not -name '*.pyc' -not -name '* *')

$(DEPLOY)/.checked: $(DEPLOY)/.tools $(DEPLOYED)
	@PATH="$(CURDIR)/$(DEPLOY)/bin:$$PATH" $(DEPLOY)/bin/python -m tests_deploy.check
	@touch $@

check-deploy: $(DEPLOY)/.checked ## lint Dockerfiles, compose file, playbooks, shell scripts, Vagrantfile and systemd unit
	@:

test-deploy: $(DEPLOY)/.tools ## the deployment for real, as root on Debian: Docker, the playbook, kills and restarts
	@$(DEPLOY)/bin/python -m tests_deploy

.PHONY: check-deploy test-deploy
