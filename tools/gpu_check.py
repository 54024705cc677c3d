"""What to run on a machine with an NVIDIA GPU: build, tests, compute-sanitizer, benchmarks.

    python3 -m tools.gpu_check [--call first|second | --stages build,smoke,...] [--out FOLDER]
                               [--total SECONDS] [--shapes llava-1.5-7b]

Uses the python3 that runs it, with its torch (2.10 or newer, a CUDA build), CMake, Ninja and nvcc.
Nothing is downloaded or installed: the extension is built into this checkout, for this machine's
GPU alone. Every stage has a time limit, the stages after a failed one still run, what fails is
named at once, and the exit status is 1 if any failed. Logs, summary.json and a JSON file for each
bench go to the output folder, and all of it into FOLDER.tar.gz, also when the time is up.

Where a GPU is lent for a quarter of an hour, `--call first` (400 s: does every op work?) and
`--call second` (300 s: how fast is it?) do what matters most, docs/gpu.md says in which order.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from tools.kernel_gate import find_nvcc
from tools.stages import Stage, Step, run_stages, summary

ROOT = Path(__file__).resolve().parent.parent
LIMITS_S = {
    "build": 120,
    "smoke": 60,
    "memcheck": 150,
    "ops": 90,
    "cycles": 130,
    "test": 1500,
    "table": 80,
    "bench": 400,
    "prefill": 60,
    "shape": 1200,
    "racecheck": 300,
}
#: Seconds, stages and shapes of each call. Of "build" the second call finds everything made.
CALLS: dict[str, tuple[float, Sequence[str], Sequence[str]]] = {
    "first": (400, ("build", "smoke", "memcheck", "ops", "cycles", "table"), ()),
    "second": (
        300,
        ("build", "bench", "prefill", "shape", "racecheck"),
        ("llava-1.5-7b", "qwen2.5-vl-7b"),
    ),
}
#: Without --call: all but what other stages do as well.
STAGES = tuple(name for name in LIMITS_S if name not in ("ops", "cycles", "table"))
#: In the short calls a shape has one prompt, and no peer compiles for every case.
SHORT_SHAPE = ("--prompt-rows", "700", "--no-hf")
#: The shapes of bench/synthetic/configs.py, which cannot be imported without transformers.
SHAPES = ("llava-1.5-7b", "qwen2.5-vl-7b", "llava-1.5-13b", "llava-next-7b")
# The emulation of the kernels on a CPU tests nothing of a GPU, and CI runs it anyway.
NOT_FOR_A_GPU = ("test_emulat*.py",)
PROCESSES = 12  # of pytest, each with its own context on the GPU
#: Files with tests for a GPU: of the ops, and of captured cycles.
OPS_TESTS = tuple(f"tests/ops/test_{name}.py" for name in (
    "tree_attention", "tree_accept", "tree_grow", "tree_prune", "kv_compact", "noise",
))  # fmt: skip
CYCLE_TESTS = (
    "tests/ops/test_ops_in_cuda_graph.py",
    "tests/engine/test_cuda_graphs.py",
    "tests/engine/test_generate.py",
    "tests/engine/test_device_cycle.py",
    "tests/engine/test_quantized_drafters.py",
)
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
    """By CMake itself: setuptools differs too much between machines."""
    folder = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
    options = [f"-DPython_EXECUTABLE={sys.executable}", "-DHIVIS_CUDA=ON", "-DHIVIS_OUTPUT="]
    options.append(f"-DCMAKE_CUDA_ARCHITECTURES={arch or 'native'}")
    says = (
        "from hivis import ops; print('built:', ops.build_info()); "
        "missing = ops.missing_on('cuda'); "
        "print('ops for CUDA:', 'all' if not missing else f'without {missing}'); "
        "raise SystemExit(bool(missing))"
    )
    commands = {
        "configure": ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *options],
        "build": ["cmake", "--build", str(folder), "--target", "_C"],
        "build-info": [sys.executable, "-c", says],
    }
    steps = [Step(name, command, environment()) for name, command in commands.items()]
    return Stage("build", LIMITS_S["build"], steps)


def smoke() -> Stage:
    command = [sys.executable, "-m", "tools.gpu_smoke"]
    return Stage("smoke", LIMITS_S["smoke"], [Step("smoke", command, environment())])


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


def run_pytest(name: str, arguments: Sequence[str], note: str = "") -> Stage:
    notes = [note] if note else []
    command = [sys.executable, "-m", "pytest", "-rfE", "--tb=short", "-p", "tools.name_failures"]
    command += ["-p", "no:cacheprovider", *arguments]
    if find_spec("pytest") is None:
        return Stage(name, LIMITS_S[name], [], "skipped: pytest is not installed")
    if find_spec("xdist") is None:
        notes.append("one process (no pytest-xdist)")
    else:
        command += ["-n", str(min(PROCESSES, os.cpu_count() or 1))]
    return Stage(name, LIMITS_S[name], [Step(name, command, environment())], "; ".join(notes))


def ops() -> Stage:
    """The ops on the GPU against their definitions."""
    return run_pytest("ops", [*OPS_TESTS, "--devices", "cuda", "-k", "cuda"])


def cycles() -> Stage:
    """Cycles on the GPU, captured and not."""
    return run_pytest("cycles", [*CYCLE_TESTS, "--devices", "cuda", "-k", "cuda or gpu or tensor"])


def test(devices: str = "cpu,cuda") -> Stage:
    ignored, notes = [], []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if any(path.match(pattern) for pattern in NOT_FOR_A_GPU):
            ignored.append(path)
            notes.append(f"without {path.name} (it is for a CPU)")
        elif missing := missing_packages(path):
            ignored.append(path)
            notes.append(f"without {path.name} (no {', '.join(sorted(missing))} installed)")
    without = [f"--ignore={path}" for path in ignored]
    return run_pytest("test", ["tests", "--devices", devices, *without], "; ".join(notes))


# --- sanitize and bench


def find_sanitizer() -> str | None:
    """compute-sanitizer from the PATH, from the folder of nvcc, or from the CUDA toolkit."""
    folders = ["/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer"]
    if nvcc := find_nvcc():
        folders.insert(0, str(Path(nvcc).resolve().parent))
    name = "compute-sanitizer"
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))


def sanitize(tool: str) -> Stage:
    """memcheck runs beside the tests, which leave most of a GPU idle."""
    sanitizer = find_sanitizer()
    if sanitizer is None:
        note = "skipped: there is no compute-sanitizer on the PATH or in the CUDA toolkit"
        return Stage(tool, LIMITS_S[tool], [], note)
    # Every tensor gets an allocation of its own, since torch's cache would hide accesses outside of
    # one. API errors are not reported: torch provokes some to find out what a driver supports, and
    # the ops check their own calls.
    alone = {**environment(), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    options = ["--padding", "256", "--report-api-errors", "no"] if tool == "memcheck" else []
    command = [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND_AN_ERROR), *options]
    command += ["--kernel-name", "kns=hivis", sys.executable, "-m", "tools.gpu_smoke"]
    beside = tool == "memcheck"
    step = Step(tool, command, alone, excuse="Device not supported", beside=beside)
    return Stage(tool, LIMITS_S[tool], [step])


def bench(name: str, out: Path, arguments: Sequence[str]) -> Stage:
    command = [sys.executable, "-m", "bench.ops", "--device", "cuda"]
    command += ["--json", str(out / f"{name}.json"), *arguments]
    step = Step(name, command, environment())
    return Stage(name, LIMITS_S[name], [step], alone=True)


def prefill(out: Path) -> Stage:
    if find_spec("transformers") is None:
        return Stage("prefill", LIMITS_S["prefill"], [], "skipped: transformers is not installed")
    step = Step("prefill", [sys.executable, "-m", "tools.gpu_prefill"], environment())
    return Stage("prefill", LIMITS_S["prefill"], [step], alone=True)


def shape(out: Path, names: Sequence[str], more: Sequence[str] = ()) -> Stage:
    """Models of real size with random weights; a plot each where matplotlib is installed."""
    if find_spec("transformers") is None:
        note = "skipped: transformers is not installed"
        return Stage("shape", LIMITS_S["shape"], [], note)
    steps = []
    for name in names:
        command = [sys.executable, "-m", "bench.synthetic", name, "--device", "cuda", *more]
        command += ["--json", str(out / f"{name}.json")]
        if find_spec("matplotlib") is not None:
            command += ["--plot", str(out / f"{name}.png")]
        steps.append(Step(name, command, environment()))
    return Stage("shape", LIMITS_S["shape"], steps, alone=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--call", choices=CALLS, help="the first or the second short call")
    parser.add_argument("--stages", help=f"of these, in this order: {','.join(LIMITS_S)}")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check")
    parser.add_argument(
        "--total",
        type=float,
        metavar="SECONDS",
        help="stop the running step after this time, and report it",
    )
    parser.add_argument("--shapes", help=f"of these, in this order: {','.join(SHAPES)}")
    parser.add_argument(
        "--bench", default="", metavar="ARGUMENTS", help="further arguments of bench.ops"
    )
    options = parser.parse_args(arguments)
    total, stages, shapes = CALLS.get(options.call, (float("inf"), STAGES, SHAPES))
    options.total = total if options.total is None else options.total
    for option, known, usual in (("stages", LIMITS_S, stages), ("shapes", SHAPES, shapes)):
        given = getattr(options, option)
        names = list(usual) if given is None else [name for name in given.split(",") if name]
        unknown = set(names) - set(known)
        if unknown or not (names or given is None):
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
    short = options.call is not None
    make: dict[str, Callable[[], Stage]] = {
        "build": lambda: build(facts["arch"]),
        "smoke": smoke,
        "memcheck": lambda: sanitize("memcheck"),
        "ops": ops,
        "cycles": cycles,
        "test": test,
        "table": lambda: bench("table", out, ["--quick", "--no-flex", *options.bench.split()]),
        "bench": lambda: bench(
            "bench", out, [*(["--no-flex"] if short else []), *options.bench.split()]
        ),
        "prefill": lambda: prefill(out),
        "shape": lambda: shape(out, options.shapes, SHORT_SHAPE if short else ()),
        "racecheck": lambda: sanitize("racecheck"),
    }
    stages = [make[name]() for name in LIMITS_S if name in options.stages]
    out.mkdir(parents=True, exist_ok=True)
    try:
        outcomes = run_stages(stages, out, ROOT, options.total)
        document = {**facts, "steps": [asdict(one) for one in outcomes]}
        (out / "summary.json").write_text(json.dumps(document, indent=1) + "\n")
        print(f"\n{summary(outcomes)}\nlogs: {out}")
    finally:
        archive = shutil.make_archive(str(out), "gztar", out)
        print(f"all of it: {archive}", flush=True)
    return 1 if any(one.failed for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
