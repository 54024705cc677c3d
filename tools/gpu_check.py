"""What to run on a machine with an NVIDIA GPU: build, tests, compute-sanitizer, benchmarks.

    python3 -m tools.gpu_check [--stages build,test,sanitize,bench,shape] [--out FOLDER]
                               [--total SECONDS] [--shapes llava-1.5-7b]

Uses the python3 that runs it, with its torch (2.10 or newer, a CUDA build), CMake, Ninja and nvcc.
Nothing is downloaded or installed: the extension is built into this checkout, for this machine's
GPU alone. Every stage has a time limit, the stages after a failed one still run, and the exit
status is 1 if any failed. Logs, summary.json, kernels.json and a file for each shape (a model of
real size with random weights, see bench/synthetic) go to the output folder.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from tools.kernel_gate import find_nvcc
from tools.stages import Stage, Step, run_stages, summary

ROOT = Path(__file__).resolve().parent.parent
LIMITS_S = {"build": 300, "test": 300, "sanitize": 300, "bench": 400, "shape": 1200}
#: The shapes of bench/synthetic/configs.py, which cannot be imported without transformers.
SHAPES = ("llava-1.5-7b", "qwen2.5-vl-7b", "llava-1.5-13b", "llava-next-7b")
# The emulation of the kernels on a CPU tests nothing of a GPU, and CI runs it anyway.
NOT_FOR_A_GPU = ("test_emulat*.py",)
PROCESSES = 8  # of pytest, each with its own context on the GPU
FOUND_AN_ERROR = 86
FACTS = """
import json, torch
seen = torch.cuda.is_available()
print(json.dumps({
    "torch": torch.__version__,
    "device": torch.cuda.get_device_name(0) if seen else None,
    "arch": "%d%d" % torch.cuda.get_device_capability(0) if seen else None,
}))
"""


def gpu_facts() -> dict[str, str | None]:
    """The versions of torch and of the GPU, found in a separate process."""
    done = subprocess.run([sys.executable, "-c", FACTS], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"torch": None, "device": None, "arch": None, "error": last}
    return json.loads(done.stdout.splitlines()[-1])


# --- build


def environment() -> dict[str, str]:
    """Environment of every step: imports this checkout, finds the tools of this Python and CUDA."""
    folders = [str(Path(sys.executable).parent)]
    if nvcc := find_nvcc():
        folders.append(str(Path(nvcc).parent))
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PATH": os.pathsep.join([*folders, os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
    }


def build(arch: str | None) -> Stage:
    wanted = {**environment(), "HIVIS_CUDA": "ON", "CMAKE_CUDA_ARCHITECTURES": arch or "native"}
    says = (
        "from hivis import ops; print('built:', ops.build_info()); "
        "missing = ops.missing_on('cuda'); "
        "print('ops for CUDA:', 'all' if not missing else f'without {missing}'); "
        "raise SystemExit(bool(missing))"
    )
    return Stage(
        "build",
        LIMITS_S["build"],
        [
            Step("build", [sys.executable, "setup.py", "build_ext", "--inplace"], wanted),
            Step("build-info", [sys.executable, "-c", says], wanted),
        ],
    )


# --- test


def missing_packages(test: Path) -> set[str]:
    """Packages that a test file needs, directly or through modules of this checkout, and that are
    not installed. Imports inside functions are ignored, since they may not be reached."""
    missing: set[str] = set()
    done: set[Path] = set()
    todo = [test]
    while todo:
        path = todo.pop()
        done.add(path)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                local = local_modules(name)
                todo += [module for module in local if module not in done]
                package = name.split(".")[0]
                if not local and not (ROOT / package).is_dir() and find_spec(package) is None:
                    missing.add(package)
    return missing


def local_modules(name: str) -> list[Path]:
    """The files of this checkout that `import name` (or a prefix of it) runs."""
    parts = name.split(".")
    candidates = [
        ROOT.joinpath(*parts[:count]).with_suffix(".py") for count in range(1, len(parts) + 1)
    ]
    return [path for path in candidates if path.is_file()]


def test(devices: str = "cpu,cuda") -> Stage:
    if find_spec("pytest") is None:
        smoke = Step("test", [sys.executable, "-m", "tools.gpu_smoke"], environment())
        note = "pytest is not installed, so only tools/gpu_smoke.py runs instead of the tests"
        return Stage("test", LIMITS_S["test"], [smoke], note)
    ignored, notes = [], []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if any(path.match(pattern) for pattern in NOT_FOR_A_GPU):
            ignored.append(path)
            notes.append(f"without {path.name} (it is for a CPU)")
        elif missing := missing_packages(path):
            ignored.append(path)
            notes.append(f"without {path.name} (no {', '.join(sorted(missing))} installed)")
    command = [sys.executable, "-m", "pytest", "tests", "-rfEs", "--devices", devices]
    command += ["-p", "no:cacheprovider", *(f"--ignore={path}" for path in ignored)]
    if find_spec("xdist") is None:
        notes.append("one process (no pytest-xdist)")
    else:
        command += ["-n", str(min(PROCESSES, os.cpu_count() or 1))]
    return Stage("test", LIMITS_S["test"], [Step("test", command, environment())], "; ".join(notes))


# --- sanitize and bench


def find_sanitizer() -> str | None:
    """compute-sanitizer from the PATH, from the folder of nvcc, or from the CUDA toolkit."""
    folders = ["/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer"]
    if nvcc := find_nvcc():
        folders.insert(0, str(Path(nvcc).resolve().parent))
    name = "compute-sanitizer"
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))


def sanitize() -> Stage:
    sanitizer = find_sanitizer()
    if sanitizer is None:
        note = "skipped: there is no compute-sanitizer on the PATH or in the CUDA toolkit"
        return Stage("sanitize", LIMITS_S["sanitize"], [], note)
    # Every tensor gets an allocation of its own, since torch's cache would hide accesses outside of
    # one. API errors are not reported: torch provokes some to find out what a driver supports, and
    # the ops check their own calls.
    alone = {**environment(), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    steps = []
    watched = {"memcheck": ["--padding", "256", "--report-api-errors", "no"], "racecheck": []}
    for tool, options in watched.items():
        command = [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND_AN_ERROR), *options]
        command += ["--kernel-name", "kns=hivis", sys.executable, "-m", "tools.gpu_smoke"]
        steps.append(Step(tool, command, alone, excuse="Device not supported"))
    return Stage("sanitize", LIMITS_S["sanitize"], steps)


def bench(out: Path, arguments: Sequence[str]) -> Stage:
    command = [sys.executable, "-m", "bench.ops", "--device", "cuda"]
    command += ["--json", str(out / "kernels.json"), *arguments]
    return Stage("bench", LIMITS_S["bench"], [Step("bench", command, environment())])


def shape(out: Path, names: Sequence[str]) -> Stage:
    """Models of real size with random weights; a plot each where matplotlib is installed."""
    if find_spec("transformers") is None:
        note = "skipped: transformers is not installed"
        return Stage("shape", LIMITS_S["shape"], [], note)
    steps = []
    for name in names:
        command = [sys.executable, "-m", "bench.synthetic", name, "--device", "cuda"]
        command += ["--json", str(out / f"{name}.json")]
        if find_spec("matplotlib") is not None:
            command += ["--plot", str(out / f"{name}.png")]
        steps.append(Step(name, command, environment()))
    return Stage("shape", LIMITS_S["shape"], steps)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", default=",".join(LIMITS_S), help="of these, in this order")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check")
    parser.add_argument(
        "--total",
        type=float,
        default=float("inf"),
        metavar="SECONDS",
        help="stop the running step after this time, and report it",
    )
    parser.add_argument("--shapes", default=",".join(SHAPES), help="of these, in this order")
    parser.add_argument(
        "--bench", default="", metavar="ARGUMENTS", help="further arguments of bench.ops"
    )
    options = parser.parse_args(arguments)
    for option, known in (("stages", LIMITS_S), ("shapes", SHAPES)):
        names = [name for name in getattr(options, option).split(",") if name]
        unknown = set(names) - set(known)
        if unknown or not names:
            parser.error(f"--{option}: wanted some of {', '.join(known)}, got {sorted(unknown)}")
        setattr(options, option, names)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    out = options.out.resolve()
    facts = gpu_facts()
    if facts["device"] is None:
        found = facts.get("error") or f"torch {facts['torch']} without one"
        print(f"gpu-check: wanted a GPU that torch sees, got {found}", file=sys.stderr)
        print("(make gpu-check PYTHON=... runs it with another Python)", file=sys.stderr)
        return 2
    print(f"gpu-check on {facts['device']} (sm_{facts['arch']}), torch {facts['torch']}")
    make = {
        "build": lambda: build(facts["arch"]),
        "test": test,
        "sanitize": sanitize,
        "bench": lambda: bench(out, options.bench.split()),
        "shape": lambda: shape(out, options.shapes),
    }
    stages = [make[name]() for name in LIMITS_S if name in options.stages]
    outcomes = run_stages(stages, out, ROOT, options.total)
    document = {**facts, "steps": [asdict(one) for one in outcomes]}
    (out / "summary.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"\n{summary(outcomes)}\nlogs: {out}")
    return 1 if any(one.failed for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
