# Two commands do everything on a Linux machine with Python 3.10 or newer: `make demo` and `make test`.
# Settings: PYTHON (which Python makes the environments), VENV and ENGINES (where), OUT (where the demo's pictures go),
# PYTEST_ARGS (what else pytest is told), APP_ARGS (what the app is told),
# GPU_ARGS (what `make gpu` is told, as --dry-run).

PYTHON ?= python3
VENV ?= .venv
ENGINES ?= .venv-engines
TORCHVISION := build/torchvision
OUT ?= relevancy-demo
PYTEST_ARGS ?= --numprocesses 2
APP_ARGS ?=
GPU_ARGS ?=

RUN := $(VENV)/bin/python -m
PIP_INSTALL := pip install --disable-pip-version-check --constraint constraints.txt
INSTALL := $(RUN) $(PIP_INSTALL)
REQUIREMENTS := pyproject.toml constraints.txt

.PHONY: help demo app space test test-engines test-torchvision lint format docs pictures notebooks gpu clean
.DELETE_ON_ERROR:

help:
	@echo "make demo      set up, then explain answers of the two embedded models; pictures go to $(OUT)/"
	@echo "make app       set up, then serve the app on http://127.0.0.1:7860"
	@echo "make space     put the app and the package into build/space, ready to be pushed as a Hugging Face Space"
	@echo "make test      set up, then run the whole test suite"
	@echo "make test-engines  set up $(ENGINES) with Ray, DeepSpeed, bitsandbytes and Quantus, then run the tests that need them"
	@echo "make test-torchvision  put torchvision beside the environment, then test the families whose processors need it"
	@echo "make lint      style, format and types"
	@echo "make format    mend style and format"
	@echo "make docs      set up, then build the documentation into build/docs; what is wrong with it is an error"
	@echo "make pictures  draw the README's pictures again"
	@echo "make notebooks run the scripts in notebooks/ and keep them as .ipynb files with small outputs"
	@echo "make gpu       set up, then measure exactness and cost on a CUDA card, in eight minutes; numbers go to gpu.json"
	@echo "make clean     remove the environment, caches and the demo's pictures"

demo: $(VENV)/.installed
	$(VENV)/bin/relevancy demo --out "$(OUT)"

app: $(VENV)/.installed-app
	$(VENV)/bin/python app/app.py $(APP_ARGS)

space: $(VENV)/.made
	rm -rf build/space
	mkdir -p build/space
	cp -r app/README.md app/app.py app/relevancy_app app/requirements.txt build/space/
	$(INSTALL) --no-deps --target build/space .
	rm -rf build/space/bin
	find build/space -name __pycache__ -type d -prune -exec rm -rf {} +

test: $(VENV)/.installed-dev
	$(RUN) pytest $(PYTEST_ARGS)

# Only what carries the marker, where nothing is skipped: a package that is missing or broken is a failure.
test-engines: $(ENGINES)/.installed
	$(ENGINES)/bin/python -m pytest -m "engines and not slow" \
	  $(shell grep --recursive --files-with-matches --include='test_*.py' 'mark[.]engines' tests)

# Of torchvision only what is Python works beside a CPU build of torch; processors need no more.
test-torchvision: $(VENV)/.installed-dev $(TORCHVISION)/.installed
	PYTHONPATH=$(TORCHVISION):tests $(RUN) pytest -p torchvision_operators $(PYTEST_ARGS) tests/test_families \
	  -k "cohere2_vision or gemma4_unified or kimi or lfm2_vl or llama4 or minimax or mistral3 or molmo2 or muse or \
	    perception_lm or phi4 or pixtral or step3p7 or familys_own or is_loaded"

lint: $(VENV)/.installed-dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) mypy tests/typed.py

format: $(VENV)/.installed-dev
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

docs: $(VENV)/.installed-docs
	$(RUN) mkdocs build --strict --clean --site-dir build/docs

pictures: demo
	mkdir -p docs/images
	$(VENV)/bin/relevancy compare --models demo-small demo-large --image "$(OUT)/00-floating/1-demo-large/picture.png" \
	  --question "Is the duck floating? (a) Yes (b) No" --out "$(OUT)/duck"
	$(VENV)/bin/python -c "import PIL.Image; p = PIL.Image.open('$(OUT)/duck/side-by-side.png').convert('RGB'); \
	  p.thumbnail((1200, 1200)); p.save('docs/images/side-by-side.png', optimize=True)"

notebooks: $(VENV)/.installed-dev
	$(VENV)/bin/python notebooks/tools/execution.py notebooks/*.py

gpu: $(VENV)/.installed-dev
	$(RUN) relevancy.benchmark.gpu $(GPU_ARGS)

clean:
	rm -rf "$(VENV)" "$(ENGINES)" "$(OUT)" build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than what it was made from, so nothing is installed twice. The package itself is installed
# editable: changes to its code need no new installation.

%/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "Python 3.10 or newer is needed. Name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv "$*" \
	  || { echo "No environment could be made. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@touch "$@"

$(VENV)/.installed: $(REQUIREMENTS) $(VENV)/.made
	$(INSTALL) --editable ".[export]"
	@touch "$@"

$(VENV)/.installed-app: $(REQUIREMENTS) $(VENV)/.made
	$(INSTALL) --editable ".[app]"
	@touch "$@" "$(VENV)/.installed"

$(VENV)/.installed-dev: $(REQUIREMENTS) $(VENV)/.made
	$(INSTALL) --editable ".[dev]"
	@touch "$@" "$(VENV)/.installed" "$(VENV)/.installed-app"

$(VENV)/.installed-docs: $(REQUIREMENTS) $(VENV)/.made
	$(INSTALL) --editable ".[docs]"
	@touch "$@"

$(TORCHVISION)/.installed: $(VENV)/.made
	$(RUN) pip install --disable-pip-version-check --no-deps --upgrade --target $(TORCHVISION) torchvision==0.28.0
	@touch "$@"

# DeepSpeed's kernels are for accelerators, and built when they are used. Quantus comes without what it asks for: its
# opencv-python lies over the cv2 of opencv-python-headless, and wants a screen's libraries.
$(ENGINES)/.installed: $(REQUIREMENTS) $(ENGINES)/.made
	DS_BUILD_OPS=0 $(ENGINES)/bin/python -m $(PIP_INSTALL) --editable ".[engines]"
	$(ENGINES)/bin/python -m $(PIP_INSTALL) --no-deps quantus
	@touch "$@"
