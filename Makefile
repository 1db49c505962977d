# Every target calls `terrastage`; which stage needs which is written in pipeline/graph.py alone.
AREA ?= carolina
VENV ?= .venv
SET ?=
AREAS ?=
STAGES := ingest tile label select augment train evaluate classify export
CLEANS := $(STAGES:%=clean-%)
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := data/bench/peers/.venv
TERRASTAGE := $(BIN)/terrastage
ASKED := --area $(AREA) $(foreach change,$(SET),--set '$(change)')

.DEFAULT_GOAL := help
.PHONY: help env run $(STAGES) status graph list fetch init clean $(CLEANS) publish cluster batch schedule compare attack bench bench-peers \
	course course-full plan test test-real check gpu-check

help: ## this list
	@awk 'function row(name, text) { printf "  %-15s %s\n", name, text } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5); if ($$0 ~ /Stages/) while ((getline line < "pipeline/graph.py") > 0) \
	    if (line ~ /^    _row\(/) { split(line, f, "\""); \
	      printf "  %-15s %-37s -> %-10s %s\n", f[2], f[4] == "" ? "(sources)" : f[4], f[6], f[8] } } \
	  /^[a-z][a-zA-Z-]*:.*## / { name = $$0; sub(/:.*/, "", name); text = $$0; sub(/.*## /, "", text); \
	    if (name != "help") row(name, text) }' Makefile
	@printf '\nArea: AREA=%s   settings for one run: SET="train.epochs=5 label.folds=4"\n' '$(AREA)'

##@ Map
run: $(READY) ## fetch the sample, run every stage that is not fresh, say where the map is
	@$(TERRASTAGE) run $(ASKED)
fetch: $(READY) ## only fetch the area's sample data
	@$(TERRASTAGE) fetch $(ASKED)
init: $(READY) ## write a config: make init NAME=mine SCENES='scenes/*.tif' LABELS=fields.gpkg FIELD=crop
	@$(TERRASTAGE) init $(NAME) --scenes '$(SCENES)' $(if $(LABELS),--labels '$(LABELS)') $(if $(FIELD),--field '$(FIELD)')
publish: $(READY) ## copy the finished map to publish.to (s3://bucket/folder, file:///folder)
	@$(TERRASTAGE) publish $(ASKED)
batch: $(READY) ## run every area that is no example, or AREAS="a b"
	@$(TERRASTAGE) batch $(AREAS)
schedule: $(READY) ## print the crontab line and the systemd timer of the batch
	@$(TERRASTAGE) schedule

##@ Stages (each with what it reads and writes; runs whatever above it is not fresh)
$(STAGES): $(READY)
	@$(TERRASTAGE) run $@ $(ASKED)

##@ Look and clean
status: $(READY) ## which artifacts are fresh, stale or missing, and why
	@$(TERRASTAGE) status $(ASKED)
plan: $(READY) ## tiles, gigabytes and minutes before anything starts (SIDE=100000: of a square scene, on paper)
	@$(TERRASTAGE) plan $(ASKED) $(if $(SIDE),--side $(SIDE))
cluster: $(READY) ## where the work would be done; of SLURM the script of a job
	@$(TERRASTAGE) cluster $(ASKED)
graph: $(READY) ## the stages with what they read and write
	@$(TERRASTAGE) graph
list: $(READY) ## the areas
	@$(TERRASTAGE) list
compare: $(READY) ## the table of all models: folds, three assignments, paired intervals
	@$(TERRASTAGE) compare $(if $(filter file,$(origin AREA)),,--area $(AREA)) $(foreach change,$(SET),--set '$(change)')
attack: $(READY) ## try to fool the trained models on the test blocks; the report shows it (MODELS="cnn rf")
	@$(TERRASTAGE) attack $(ASKED) $(if $(MODELS),--models $(MODELS))
clean: ## say what can be cleaned (clean-STAGE removes one artifact, data/raw is never touched)
	@echo 'make clean-STAGE AREA=$(AREA), STAGE being one of: $(STAGES)'
$(CLEANS): clean-%: $(READY)
	@$(TERRASTAGE) clean $* $(ASKED)

##@ The course
course: $(READY) ## the lectures' experiments, small, into data/course/index.html (LECTURE=4: only one)
	@$(TERRASTAGE) course $(LECTURE)
course-full: $(READY) ## the same at the size of the published experiments: hours; goes on where it was stopped
	@$(TERRASTAGE) course $(LECTURE) --full

##@ Develop
env: $(READY) ## make .venv as requirements.lock says (every other target does, too)
test: $(READY) ## the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not real"
test-real: $(READY) ## map the real samples, check the maps and print their figures
	@$(TERRASTAGE) run --area carolina
	@$(TERRASTAGE) run --area romania
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m real -s tests/test_real.py tests/test_real_series.py
check: $(READY) ## format, lint, strict types, import contracts
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
bench: $(READY) ## ours beside its limits in one table, written to data/bench/bench.json (BENCH="--quick --only feed")
	@$(BIN)/python -m tests.benchmarks $(BENCH)
bench-peers: $(READY) $(PEERS)/.ready ## the same beside TorchGeo, in an environment of its own (6 GB, made once)
	@$(BIN)/python -m tests.benchmarks --peers --out data/bench/peers.json $(BENCH)
gpu-check: $(READY) ## accelerator against CPU: parity, rates, memory
	@$(TERRASTAGE) gpu-check

$(READY): requirements.lock pyproject.toml
	@test -n '$(PYTHON)' || { echo 'terrastage needs Python 3.11 or newer; install it, or name it: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'Making $(VENV) from requirements.lock (a few minutes, once) ...'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(PEERS)/.ready: tests/benchmarks/peers/requirements.txt
	@echo 'Making $(PEERS) from $< (6 GB, a few minutes, once; remove the folder to be rid of it) ...'
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
