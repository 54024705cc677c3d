"""What ptxas reports about kernels (`-Xptxas=-v`), and how much of it a kernel may use.

A kernel's budget is a comment in csrc/cuda, in its own file or a header, and holds for every
architecture and every instantiation, or for those that a pattern names:

    // budget: tree_attention_any_kernel: registers <= 64, stack <= 0
    // budget: tree_attention_kernel<Traits<*, 128, 1, 4, 1>>: registers <= 200

Stack may be left out (0). Spills and static shared memory have no budget: there must be none.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

_FUNCTION = re.compile(r"Function properties for (\S+)$")
_ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'$")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads$")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_BUDGET = re.compile(r"^\s*// budget\b(.*)$", re.MULTILINE)
_BUDGET_TEXT = re.compile(r": (\w+(?:<.*>)?): registers <= (\d+)(?:, stack <= (\d+))?\s*$")


@dataclass(frozen=True)
class Budget:
    registers: int
    stack: int = 0


@dataclass(frozen=True)
class Usage:
    """One kernel as compiled for one architecture, or a function that was not inlined into one.

    `kernel` is the plain name, `arguments` the template's, in readable form. Only kernels have
    registers of their own.
    """

    kernel: str
    arguments: str
    arch: str
    is_kernel: bool
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int

    @property
    def name(self) -> str:
        return self.kernel + (f"<{self.arguments}>" if self.arguments else "")


# --- Names


def plain_name(mangled: str) -> tuple[str, str]:
    """The last identifier of a mangled name and what follows it: template and parameter types.

    Namespaces and identifiers carry their length in front, so no demangler is needed for this.
    """
    found = re.match(r"_ZN?", mangled)
    if not found:
        return mangled, ""
    name, rest = "", mangled[found.end() :]
    while length := re.match(r"\d+", rest):
        end = length.end() + int(length.group())
        name, rest = rest[length.end() : end], rest[end:]
        if not mangled.startswith("_ZN"):
            break
    return name, rest


def template_arguments(mangled: str, readable: str) -> str:
    """What stands between the angle brackets; the mangled form where `readable` is no better."""
    name, rest = plain_name(mangled)
    _, found, after = readable.replace("(anonymous namespace)::", "").partition(name + "<")
    if not found:
        return rest[1:].partition("E")[0] if rest.startswith("I") else ""
    depth, end = 1, 0
    while depth and end < len(after):
        depth += {"<": 1, ">": -1}.get(after[end], 0)
        end += 1
    return after[: end - 1].replace("hivis::cuda::", "").replace("> >", ">>").strip()


def demangle(names: Iterable[str]) -> dict[str, str]:
    """Readable forms by c++filt; without it every name stands for itself."""
    names = sorted(set(names))
    if not names or shutil.which("c++filt") is None:
        return {name: name for name in names}
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True)
    lines = done.stdout.splitlines()
    return dict(zip(names, lines if len(lines) == len(names) else names, strict=True))


# --- Reports


def parse_report(text: str) -> list[Usage]:
    """All kernels and separate functions in the output of one nvcc run for one architecture."""
    lines = [line.strip() for line in text.splitlines()]
    readable = demangle(m.group(1) for line in lines if (m := _FUNCTION.search(line)))
    usages, arch = [], "?"
    entries: set[str] = set()
    for i, line in enumerate(lines):
        if entry := _ENTRY.search(line):
            entries.add(entry.group(1))
            arch = entry.group(2)
        if not (function := _FUNCTION.search(line)):
            continue
        mangled = function.group(1)
        frame = _FRAME.match(lines[i + 1]) if i + 1 < len(lines) else None
        if frame is None:
            raise ValueError(f"ptxas: wanted the stack frame of {mangled}, got another format")
        stack, stores, loads = (int(figure) for figure in frame.groups())
        used = lines[i + 2] if mangled in entries and i + 2 < len(lines) else ""
        registers, shared = _USED.search(used), _SHARED.search(used)
        if mangled in entries and registers is None:
            raise ValueError(f"ptxas: wanted the registers of {mangled}, got another format")
        usages.append(
            Usage(
                kernel=plain_name(mangled)[0],
                arguments=template_arguments(mangled, readable[mangled]),
                arch=arch,
                is_kernel=mangled in entries,
                registers=int(registers.group(1)) if registers else 0,
                stack=stack,
                spill_stores=stores,
                spill_loads=loads,
                shared=int(shared.group(1)) if shared else 0,
            )
        )
    return usages


def errors_of(text: str) -> list[str]:
    """The compiler's error lines, less the spills, which `violations` words better."""
    found = [line.strip() for line in text.splitlines() if re.search(r"\b(error|fatal)\b", line)]
    return [line for line in found if "Registers are spilled" not in line]


# --- Budgets


def parse_budgets(sources: Mapping[str, str]) -> tuple[dict[str, Budget], list[str]]:
    """The budgets stated in files (name to text), and what is wrong with how they are stated."""
    budgets: dict[str, Budget] = {}
    problems = []
    for source, text in sources.items():
        for line in _BUDGET.findall(text):
            stated = _BUDGET_TEXT.match(line)
            if stated is None:
                problems.append(
                    f"{source}: wanted '// budget: NAME: registers <= R[, stack <= S]', "
                    f"got '// budget{line}'"
                )
                continue
            kernel, registers, stack = stated.groups()
            if kernel in budgets:
                problems.append(f"{source}: wanted one budget for {kernel}, got a second one")
            budgets[kernel] = Budget(int(registers), int(stack or 0))
    return budgets, problems


def is_for(usage: Usage, budget: str) -> bool:
    """Whether a budget of this name is about the kernel, be it about other instantiations."""
    return budget.partition("<")[0] == usage.kernel


def budget_of(usage: Usage, budgets: Mapping[str, Budget]) -> Budget | None:
    """The budget of the kernel as a whole, or that of the pattern that it matches."""
    names = [name for name in budgets if name == usage.kernel or fnmatchcase(usage.name, name)]
    return budgets[names[0]] if names else None


def violations(usages: Iterable[Usage], budgets: Mapping[str, Budget]) -> list[str]:
    """One line for each thing that is over its budget, or has none."""
    lines = []
    without = set()
    for usage in usages:
        where = f"{usage.name} {usage.arch}"
        if usage.spill_stores or usage.spill_loads:
            lines.append(
                f"{where}: wanted no spills, got {usage.spill_stores} bytes stored and "
                f"{usage.spill_loads} loaded"
            )
        if usage.shared:
            lines.append(
                f"{where}: wanted dynamic shared memory alone, got {usage.shared} static bytes"
            )
        budget = budget_of(usage, budgets)
        if budget is None and usage.is_kernel:
            without.add(usage.name if any(is_for(usage, b) for b in budgets) else usage.kernel)
            continue
        budget = budget or Budget(0)
        # A spill needs a stack frame of its own: one line says it.
        if usage.stack > budget.stack and not usage.spill_stores:
            lines.append(f"{where}: wanted stack <= {budget.stack} bytes, got {usage.stack}")
        if usage.is_kernel and usage.registers > budget.registers:
            lines.append(f"{where}: wanted registers <= {budget.registers}, got {usage.registers}")
    lines += [
        f"{kernel}: wanted a line '// budget: {kernel}: registers <= R' in csrc/cuda, got none"
        for kernel in sorted(without)
    ]
    return lines


def unknown(usages: Iterable[Usage], budgets: Mapping[str, Budget]) -> list[str]:
    """One line for each budget of a kernel that is not there (any more)."""
    kernels = list(usages)
    return [
        f"{name}: wanted a kernel of this name for its budget, got none"
        for name in sorted(budgets)
        if not any(budget_of(usage, {name: budgets[name]}) for usage in kernels)
    ]
