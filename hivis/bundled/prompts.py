"""The held-out prompts that are bundled with hivis."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hivis.bundled.paths import EVAL


@dataclass(frozen=True)
class HeldOutPrompt:
    """One held-out prompt. `facts` are the strings that a correct answer contains."""

    id: str
    image: Path
    prompt: str
    kind: Literal["long", "short"]
    topic: str
    facts: tuple[str, ...]


def held_out_prompts() -> list[HeldOutPrompt]:
    """The bundled prompts, in the order of their file.

    Raises:
        FileNotFoundError: the package was installed without `eval/`.
    """
    lines = (EVAL / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [
        HeldOutPrompt(**record | {"image": EVAL / record["image"], "facts": tuple(record["facts"])})
        for record in records
    ]
