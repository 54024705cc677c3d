"""Captured answers on disk and in batches.

A capture is a directory of safetensors shards. Samples lie end to end; a sample is the kept rows of
one prompt and the target's own answer to it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hivis.drafters.base import PromptRows
from hivis.errors import HivisError


@dataclass(frozen=True)
class Sample:
    """Rows of one text: the prompt's kept rows, then the answer.

    Attributes:
        tokens: ``[n]`` int64.
        hidden: ``[n, E]`` the target's last hidden states, after the final norm.
        answer: ``[n]`` bool: tokens of the answer, except a closing EOS: no hidden state at or
            after that is ever asked of a drafter.
        greedy: whether the answer was decoded greedily.
        embeddings: ``[n, E]`` input embeddings, where rows may hold a picture; else ``None``.
    """

    tokens: Tensor
    hidden: Tensor
    answer: Tensor
    greedy: bool
    embeddings: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def prompt_rows(self) -> int:
        """Rows before the first token of the answer."""
        return int(self.answer.int().argmax()) if bool(self.answer.any()) else len(self)


@dataclass(frozen=True)
class Batch:
    """Samples padded on the right with zeros. A causal drafter never looks there.

    Attributes:
        tokens ``[B, n]``, hidden ``[B, n, E]``, answer ``[B, n]``: as in :class:`Sample`.
        embeddings: ``[B, n, E]`` or ``None``.
    """

    tokens: Tensor
    hidden: Tensor
    answer: Tensor
    embeddings: Tensor | None

    @classmethod
    def of(cls, samples: Sequence[Sample], device: torch.device | str) -> Batch:
        def pad(parts: Sequence[Tensor]) -> Tensor:
            return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True).to(device)

        embeddings = [s.embeddings for s in samples if s.embeddings is not None]
        return cls(
            tokens=pad([s.tokens for s in samples]),
            hidden=pad([s.hidden for s in samples]).float(),
            answer=pad([s.answer for s in samples]),
            embeddings=pad(embeddings).float() if embeddings else None,
        )


def shuffled_batches(
    samples: Sequence[Sample], size: int, seed: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """One pass in random order, with samples of like length together to save on padding."""
    rng = random.Random(seed)
    order = list(range(len(samples)))
    rng.shuffle(order)
    groups = []
    for start in range(0, len(order), size * 16):
        near = sorted(order[start : start + size * 16], key=lambda i: len(samples[i]))
        groups += [near[i : i + size] for i in range(0, len(near), size)]
    rng.shuffle(groups)
    for group in groups:
        yield Batch.of([samples[i] for i in group], device)


def save_shard(path: Path, samples: Sequence[Sample], rows: PromptRows) -> None:
    """Write samples end to end, floats as bf16."""
    tensors = {
        "tokens": torch.cat([s.tokens for s in samples]).int(),
        "hidden": torch.cat([s.hidden for s in samples]).bfloat16(),
        "answer": torch.cat([s.answer for s in samples]),
        "lengths": torch.tensor([len(s) for s in samples]),
        "greedy": torch.tensor([s.greedy for s in samples]),
    }
    if rows == "all":
        tensors["embeddings"] = torch.cat(
            [s.embeddings for s in samples if s.embeddings is not None]
        ).bfloat16()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"capture": json.dumps({"rows": rows})})


def load_capture(directory: str | Path, rows: PromptRows) -> list[Sample]:
    """Read all shards of a capture.

    Raises:
        HivisError: there is none, one is not readable, or it was captured for other rows.
    """
    paths = sorted(Path(directory).glob("shard-*.safetensors"))
    if not paths:
        raise HivisError(f"captured data: wanted shard-*.safetensors in {directory}, got none")
    return [sample for path in paths for sample in _load_shard(path, rows)]


def _load_shard(path: Path, rows: PromptRows) -> list[Sample]:
    try:
        with safe_open(path, "pt") as file:
            kept = json.loads((file.metadata() or {}).get("capture", "{}")).get("rows")
            if kept != rows:
                raise HivisError(f"{path}: wanted a capture of rows {rows!r}, got {kept!r}")
            t = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise HivisError(f"{path}: wanted a readable shard, got {error}") from None
    lengths = t["lengths"].tolist()
    columns = [t["tokens"].long().split(lengths), t["hidden"].split(lengths)]
    columns += [t["answer"].split(lengths)]
    pictures = t["embeddings"].split(lengths) if rows == "all" else [None] * len(lengths)
    greedy = t["greedy"].tolist()
    return [Sample(*row) for row in zip(*columns, greedy, pictures, strict=True)]


def split(samples: Sequence[Sample], held_out: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """``(training, held out)``; at most a fifth is held out, and the seed alone says which."""
    order = list(range(len(samples)))
    random.Random(seed).shuffle(order)
    count = min(held_out, len(samples) // 5)
    return [samples[i] for i in order[count:]], [samples[i] for i in order[:count]]
