"""``python -m tests.fuzz_ops --seed S --cases N``, or ``--case K`` for one of them alone.

Case K of seed S is always the same call. The first one that goes wrong is named, and ends the run
with status 1; a crash leaves its number in ``--progress FILE``.
"""

from __future__ import annotations

import argparse
import mmap
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.fuzz_ops import accept, attention, compact, grow, noise, prune
from tests.fuzz_ops.arena import Slots
from tests.fuzz_ops.case import Case, dress, judge

MAKERS = (attention.case, compact.case, accept.case, noise.case, grow.case, prune.case)


def make(seed: int, number: int, slots: Slots) -> Case:
    """Case ``number`` of ``seed``."""
    random = Random(seed << 40 | number)
    torch.default_generator.manual_seed(seed << 32 | number)  # a quick torch.manual_seed
    slots.clear()
    case = MAKERS[number % len(MAKERS)](random, slots)
    if not case.spoiled and random.random() < 0.15:
        dress(case, random)
    return case


@contextmanager
def how_called(number: int) -> Iterator[None]:
    """Most calls are plain; some have gradients on, or are in inference mode or on two threads."""
    mode = number // len(MAKERS) % 16
    torch.set_num_threads(2 if mode == 3 else 1)
    with torch.inference_mode(mode == 1), torch.set_grad_enabled(mode == 2):
        yield


def run(seed: int, first: int, cases: int, progress: Any = None) -> str | None:
    """What went wrong, None if nothing did."""
    slots, counts = Slots(), Counter[str]()
    begun = time.perf_counter()
    for number in range(first, first + cases):
        if progress is not None:
            struct.pack_into("<q", progress, 0, number)
        case = make(seed, number, slots)
        with how_called(number):
            wrong = judge(case, slots, meta=number % 101 == 0)
        if wrong is not None:
            return f"seed {seed} case {number}: {case.op}: {wrong}\n{_described(case)}"
        counts[f"{case.op} {'refused' if case.spoiled else 'answered'}"] += 1
    took = time.perf_counter() - begun
    print(f"seed {seed}: {cases} cases in {took:.1f} s: ", end="")
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return None


def _described(case: Case) -> str:
    lines = []
    for name, value in zip(case.names, case.args, strict=True):
        if isinstance(value, torch.Tensor) and value.layout == torch.strided:
            small = value.numel() <= 32 and value.device.type == "cpu"
            values = f" = {value.tolist()}" if small else ""
            shape = f"{list(value.shape)} strides {list(value.stride())}"
            lines.append(f"  {name}: {value.dtype} {shape}{values}")
        else:
            lines.append(f"  {name}: {value!r}"[:300])
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_ops", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--case", type=int, help="this one alone")
    parser.add_argument("--progress", type=Path, help="file for the number of the running case")
    options = parser.parse_args(argv)
    progress = None
    if options.progress is not None:
        options.progress.write_bytes(struct.pack("<q", -1))
        with open(options.progress, "r+b") as file:
            progress = mmap.mmap(file.fileno(), 8)
    one = options.case is not None
    first, cases = (options.case, 1) if one else (0, options.cases)
    wrong = run(options.seed, first, cases, progress)
    if wrong is not None:
        print(wrong)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
