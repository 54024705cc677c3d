"""The compile gate: every kernel compiles without a warning and stays within its stated budget.

    python -m tools.kernel_gate [--arch sm_80 sm_90] [--json PATH] [FILE.cu ...]

Compiles with nvcc, reads what ptxas reports, prints a table and one line per violation, and exits
with 1 if there is any. `tools/ptxas.py` says how a budget is stated. No GPU is needed. Objects and
logs stay in build/kernel_gate; a file is compiled again when it, a header of csrc that it includes,
the flags or the compiler have changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.ptxas import Usage, errors_of, parse_budgets, parse_report, unknown, violations

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
FLAGS = ("-std=c++20", "-O3", "-lineinfo", "-Xptxas=-v,--warn-on-spills", "-Werror=all-warnings")
HEADER = ("kernel", "template arguments", "arch", "registers", "stack", "spills")


@dataclass(frozen=True)
class Compiled:
    """One file for one architecture: nvcc's exit status and everything it said."""

    source: Path
    arch: str
    status: int
    log: str
    cached: bool


def headers_of(folder: str) -> list[Path]:
    """Everything in a folder of csrc that is no .cu."""
    return sorted(
        path for path in (CSRC / folder).rglob("*") if path.is_file() and path.suffix != ".cu"
    )


def dependencies(source: Path) -> list[Path]:
    """The file and the headers of csrc that it includes, directly or not."""
    found, todo = {source}, [source]
    while todo:
        for name in re.findall(r'^\s*#\s*include\s+"(.+)"', todo.pop().read_text(), re.MULTILINE):
            header = CSRC / name
            if header not in found and header.is_file():
                found.add(header)
                todo.append(header)
    return sorted(found)


class Gate:
    """Compiles files with one nvcc into one folder."""

    def __init__(self, nvcc: str, build: Path) -> None:
        self.nvcc, self.build = nvcc, build
        self.version = subprocess.run(
            [nvcc, "--version"], capture_output=True, text=True, check=True
        ).stdout
        build.mkdir(parents=True, exist_ok=True)

    def key(self, command: Sequence[str], source: Path) -> str:
        """A digest of all that decides about the outcome."""
        digest = hashlib.sha256(repr((self.version, command)).encode())
        for path in dependencies(source):
            digest.update(f"\0{path}\0".encode() + path.read_bytes())
        return digest.hexdigest()

    def compile(self, source: Path, arch: str) -> Compiled:
        stem = self.build / f"{source.stem}.{arch}"
        target = ["-gencode", f"arch={arch.replace('sm', 'compute')},code={arch}"]
        command = [self.nvcc, *FLAGS, *target, "-I", str(CSRC), "-c", str(source)]
        key, log = self.key(command, source), Path(f"{stem}.log")
        if log.exists() and (head := log.read_text().partition("\n"))[0] == f"{key} 0":
            return Compiled(source, arch, 0, head[2], True)
        done = subprocess.run(
            [*command, "-o", f"{stem}.o"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        log.write_text(f"{key} {done.returncode}\n{done.stdout}")
        return Compiled(source, arch, done.returncode, done.stdout, False)


def run_gate(
    gate: Gate, sources: Sequence[Path], archs: Sequence[str], jobs: int = 2
) -> tuple[list[Compiled], list[Usage], list[str]]:
    """Compile and judge `sources`: what was compiled, what every kernel uses, and what is wrong."""
    work = [(source, arch) for source in sources for arch in archs]
    with ThreadPoolExecutor(jobs) as pool:
        compiled = list(pool.map(lambda one: gate.compile(*one), work))

    problems, usages = [], []
    for one in compiled:
        errors = errors_of(one.log)
        # ptxas turns spills into errors here; they come again below, with their kernel's name.
        spilled = "Registers are spilled" in one.log
        if one.status and (errors or not spilled):
            more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
            reason = errors[0] if errors else f"exit status {one.status}"
            problems.append(f"{one.source.name} {one.arch}: nvcc failed: {reason}{more}")
        usages += parse_report(one.log)

    # Headers of csrc/cuda state budgets too, of kernels that several files share.
    own = {path.name: path.read_text() for path in sources}
    shared = {path.name: path.read_text() for path in headers_of("cuda")}
    budgets, misstated = parse_budgets(own | shared)
    problems += misstated + violations(usages, budgets)
    if all(one.status == 0 for one in compiled):
        whole = set(sources) >= set((CSRC / "cuda").glob("*.cu"))
        problems += unknown(usages, budgets if whole else parse_budgets(own)[0])
    return compiled, usages, problems


def table(usages: Sequence[Usage]) -> str:
    """Aligned text, one line per kernel and architecture."""
    rows = [HEADER] + [
        (
            usage.kernel,
            usage.arguments or "-",
            usage.arch,
            str(usage.registers) if usage.is_kernel else "(function)",
            str(usage.stack),
            f"{usage.spill_stores}/{usage.spill_loads}",
        )
        for usage in sorted(usages, key=lambda u: (u.kernel, u.arguments, u.arch))
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def find_nvcc() -> str | None:
    """nvcc from the PATH, or from where the toolkit puts it."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="default: all of csrc/cuda")
    parser.add_argument("--arch", nargs="+", default=["sm_80", "sm_90"])
    parser.add_argument("--jobs", type=int, default=2, help="files compiled at a time")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "kernel_gate")
    parser.add_argument("--json", type=Path, help="also write figures and violations to this file")
    options = parser.parse_args(arguments)
    nvcc = find_nvcc()
    if nvcc is None:
        parser.error("wanted nvcc on the PATH or in /usr/local/cuda/bin, got none")
    missing = [path for path in options.files if not path.is_file()]
    if missing:
        parser.error(f"wanted files, got {missing[0]}")
    sources = sorted(path.resolve() for path in options.files or (CSRC / "cuda").glob("*.cu"))

    compiled, usages, problems = run_gate(
        Gate(nvcc, options.build.resolve()), sources, options.arch, options.jobs
    )
    print(table(usages))
    for problem in problems:
        print(problem)
    cached = sum(one.cached for one in compiled)
    verdict = f"{len(problems)} problem(s)" if problems else "all within their budgets"
    print(
        f"kernel gate: {len(sources)} files, {len(usages)} kernels ({cached} of "
        f"{len(compiled)} compilations kept from before): {verdict}"
    )
    if options.json:
        document = {"kernels": [asdict(usage) for usage in usages], "problems": problems}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
