# make latency   set up .venv, build, run the headline benchmark
# make test      run the tests                    make lint   check format, lint and types
# make venv      only the environment and the build
# make cuda      compile every CUDA file, check each kernel's budgets (needs nvcc, no GPU)
# make gpu-check on a machine with a GPU: build, tests, compute-sanitizer, benchmarks (no network)
# make kernels   time the ops                     make tiny   train the bundled model and drafters

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
SOURCES := $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml
CPP := $(shell find csrc tests/emulation -name '*.h' -o -name '*.cpp' -o -name '*.cu')
BUILD := build/cmake-$(shell $(PYTHON) -c 'import sys; print(sys.implementation.cache_tag)')
# Training: minutes by the clock; on a GPU far more steps fit into them.
TARGET_MINUTES ?= 53
ANSWERS ?= 2048
UPDATES ?= 2400
TRAIN = $(BIN)/python -m hivis train --updates $(UPDATES)
RUN ?= runs/tiny
# Where make gpu-check leaves its logs and figures.
OUT ?= build/gpu-check

.PHONY: latency test venv lint cuda gpu-check kernels tiny drafters clean

latency: venv
	$(BIN)/python bench/latency.py $(ARGS)

test: venv
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(BUILD) --target \
	  emulation_library emulation_checks emulation_faults
	$(BIN)/python -m pytest -rs -n auto --dist worksteal $(ARGS)

venv: $(VENV)/.built

# The build tools and torch come first, since the build of hivis looks at the installed torch.
$(VENV)/.installed: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt torch setuptools cmake ninja pybind11
	touch $@

$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) install -q -c constraints.txt --no-build-isolation -e '.[bench,dev]'
	touch $@

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)

cuda: venv
	$(BIN)/python -m tools.kernel_gate $(ARGS)
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(BUILD) --target hivis_cuda_check

# With the torch and the tools of $(PYTHON): .venv has no CUDA build of torch.
gpu-check:
	$(PYTHON) -m tools.gpu_check --out $(OUT) $(ARGS)

kernels: venv
	$(BIN)/python -m bench.ops $(ARGS)

tiny: venv
	$(BIN)/python -m recipes.tiny.train_target --minutes $(TARGET_MINUTES) --out $(RUN)/target
	$(BIN)/python -m recipes.tiny.evaluate --target $(RUN)/target --out $(RUN)/evaluation.json
	$(MAKE) drafters RUN=$(RUN)
	$(BIN)/python -m recipes.tiny.ship --run $(RUN)

# The target answers once for all methods. The last two are for the table of ablations alone.
DATA := --target $(RUN)/target --data $(RUN)/answers
drafters: venv
	$(BIN)/python -m recipes.tiny.conversations --count $(ANSWERS) --out $(RUN)/questions
	$(BIN)/python -m hivis capture --method hivis vispec eagle draft-vlm --max-new-tokens 160 --answer-batch 32 \
	  --target $(RUN)/target --data $(RUN)/questions/conversations.jsonl --out $(RUN)/answers
	$(BIN)/python -m recipes.tiny.draft --target $(RUN)/target --out $(RUN)/draft
	$(TRAIN) --method hivis $(DATA) --out $(RUN)/hivis
	$(TRAIN) --method vispec $(DATA) --out $(RUN)/vispec
	$(TRAIN) --method eagle $(DATA) --out $(RUN)/eagle
	$(TRAIN) --method draft-vlm $(DATA) --draft $(RUN)/draft --out $(RUN)/draft_vlm
	for drafter in hivis vispec eagle; do $(BIN)/python -m hivis draft-vocab $(DATA) --out $(RUN)/$$drafter || exit 1; done
	$(TRAIN) --method hivis --residual-rows 0 $(DATA) --out $(RUN)/no-residual
	$(TRAIN) --method eagle --residual-rows 3 $(DATA) --out $(RUN)/no-hiding

clean:
	rm -rf build $(VENV) hivis/_C*.so hivis.egg-info
