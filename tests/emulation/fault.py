"""What a planted fault is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Fault:
    """A change of `old`, which `file` must hold exactly once, into `new`."""

    file: str  # from the root of the repository; a .cu or a header of one
    old: str
    new: str
    check: str  # the program check_<check> must notice it ...
    builds: tuple[str, ...]  # ... in each of these builds: plain, race
    unit: str = ""  # the .cu to compile; needed if `file` is a header
    only: str = ""  # the check of that program that notices it, to save time

    def mutated(self) -> str:
        text = (ROOT / self.file).read_text()
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.file}: wanted once, got {count} times: {self.old}")
        return text.replace(self.old, self.new)
