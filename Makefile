# make repro | make test | make test-all | make lint | make bench | make bench-gpu | make lock; each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: setup repro test test-all lint bench bench-gpu lock clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed; this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

repro: setup
	dvc repro

test: setup
	python -m pytest -n auto --dist worksteal -m "not slow"

test-all: setup
	python -m pytest -n auto --dist worksteal
	if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then python -m pytest -m gpu; fi

lint: setup
	ruff check .
	ruff format --check .
	mypy
	lint-imports

bench: setup
	python -m benchmarks

bench-gpu: setup
	python -m benchmarks.gpu

lock:
	$(PYTHON) -m uv pip compile setup.cfg --extra dev --extra openclip --extra timm --extra onnx --extra openvino --extra ui --extra s3 --extra http --extra hf --universal --python-version 3.10 --upgrade \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links -o requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info
