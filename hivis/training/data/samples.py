"""Captured answers: what a sample holds, and the shards it lies in.

A capture is a directory of safetensors shards. In a shard the samples lie end to end, column by
column, and are read one by one when they are asked for: a capture may be larger than the memory.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hivis.errors import HivisError
from hivis.training.data.atomic import replacing

HiddenRows = Literal["text", "edges", "all"]
_HIDDEN_ORDER: tuple[HiddenRows, ...] = ("text", "edges", "all")


@dataclass(frozen=True)
class Columns:
    """What a capture keeps besides the tokens, or what a method needs of one.

    Attributes:
        hidden: whose hidden states: ``"text"`` those of text rows alone, ``"edges"`` also that of
            each image's last row, ``"all"`` every row's.
        images: the projected embeddings of the visual rows.
        seen: what the vision tower made of the images, before the projector.
    """

    hidden: HiddenRows = "text"
    images: bool = False
    seen: bool = False

    @classmethod
    def covering(cls, needed: Iterable[Columns]) -> Columns:
        """The least that serve all of ``needed``."""
        each = list(needed)
        hidden = max((one.hidden for one in each), key=_HIDDEN_ORDER.index)
        return cls(hidden, any(one.images for one in each), any(one.seen for one in each))

    def covers(self, needed: Columns) -> bool:
        """Whether a capture of these columns serves a method that needs ``needed``."""
        return (
            _HIDDEN_ORDER.index(self.hidden) >= _HIDDEN_ORDER.index(needed.hidden)
            and self.images >= needed.images
            and self.seen >= needed.seen
        )

    def keeps(self, visual: Tensor, spans: Tensor) -> Tensor:
        """``[n]`` bool: whose hidden states stay, from ``visual`` ``[n]`` and ``spans``."""
        if self.hidden == "all":
            return torch.ones_like(visual)
        kept = ~visual
        if self.hidden == "edges":
            kept[spans[:, 1] - 1] = True
        return kept


@dataclass(frozen=True)
class Sample:
    """One prompt and the target's own answer to it: n rows, the answer's last.

    Attributes:
        tokens: ``[n]`` int64; a placeholder at visual rows.
        visual: ``[n]`` bool.
        answer: ``[n]`` bool: tokens of the answer, except a closing EOS: no hidden state at or
            after that is ever asked of a drafter.
        spans: ``[p, 2]`` int64, half-open rows of each of the p images, in order.
        greedy: whether the answer was decoded greedily.
        conversation: a number that answers to questions of one conversation have in common.
        kept: ``[n]`` bool: whose hidden states there are.
        hidden: ``[kept rows, E]`` the target's last hidden states, after the final norm.
        images: ``[visual rows, E]`` projected image embeddings; ``None`` if not captured.
        seen: ``[p, r, Ev]`` output of the vision tower; ``None`` if not captured or no image.
    """

    tokens: Tensor
    visual: Tensor
    answer: Tensor
    spans: Tensor
    greedy: bool
    conversation: int
    kept: Tensor
    hidden: Tensor
    images: Tensor | None = None
    seen: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def prompt_rows(self) -> int:
        """Rows before the first token of the answer, visual ones included."""
        return int(self.answer.int().argmax()) if bool(self.answer.any()) else len(self)

    def hidden_at(self, rows: Tensor) -> Tensor:
        """``[r, E]`` hidden states of ``rows`` ``[r]`` int64; zeros where none was kept."""
        place = self.kept.cumsum(0)[rows] - 1
        found = self.hidden[place.clamp(min=0)]
        return found * self.kept[rows].unsqueeze(1).to(found.dtype)


#: What the lines of each column belong to; a shard says how many of these each sample has.
_COUNTED_BY = {
    "tokens": "rows",
    "visual": "rows",
    "answer": "rows",
    "kept": "rows",
    "spans": "spans",
    "hidden": "kept",
    "images": "visual",
    "seen": "spans",
}


def save_shard(
    path: Path, samples: Sequence[Sample], columns: Columns, note: dict[str, Any] | None = None
) -> None:
    """Write samples end to end, floats as bf16, into a file that appears whole or not at all.

    ``note`` is kept beside them and comes back from :func:`shard_note`.
    """
    tensors = {
        "tokens": torch.cat([s.tokens for s in samples]).int(),
        "visual": torch.cat([s.visual for s in samples]),
        "answer": torch.cat([s.answer for s in samples]),
        "spans": torch.cat([s.spans for s in samples]).int(),
        "kept": torch.cat([s.kept for s in samples]),
        "hidden": torch.cat([s.hidden for s in samples]).bfloat16(),
        "greedy": torch.tensor([s.greedy for s in samples]),
        "conversation": torch.tensor([s.conversation for s in samples]),
        "rows_of": torch.tensor([len(s) for s in samples]),
        "spans_of": torch.tensor([len(s.spans) for s in samples]),
        "kept_of": torch.tensor([len(s.hidden) for s in samples]),
        "visual_of": torch.tensor([int(s.visual.sum()) for s in samples]),
    }
    for name, wanted in (("images", columns.images), ("seen", columns.seen)):
        parts = [p for s in samples if (p := getattr(s, name)) is not None]
        if wanted and parts:
            tensors[name] = torch.cat(parts).bfloat16()
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"columns": asdict(columns), "note": note or {}})
    with replacing(path) as draft:
        save_file(tensors, draft, metadata={"capture": text})


class Capture(Sequence[Sample]):
    """The samples of a directory of shards, read from disk one by one."""

    def __init__(self, directory: str | Path, needed: Columns) -> None:
        """Open all shards.

        Raises:
            HivisError: there is none, one is not readable, or it lacks what is needed.
        """
        self.directory = Path(directory)
        self.paths = shard_paths(directory)
        if not self.paths:
            raise HivisError(f"captured data: wanted shard-*.safetensors in {directory}, got none")
        self.needed = needed
        self._files: dict[int, Any] = {}
        self._starts: list[dict[str, list[int]]] = []
        self._where: list[tuple[int, int]] = []
        self._greedy: list[bool] = []
        self.conversations: list[int] = []
        self.lengths: list[int] = []
        self.hidden_size = 0
        for shard, path in enumerate(self.paths):
            self._open(shard, path)

    def _open(self, shard: int, path: Path) -> None:
        got = Columns(**shard_header(path)["columns"])
        if not got.covers(self.needed):
            raise HivisError(f"{path}: wanted a capture of {self.needed}, got {got}")
        file = self._file(shard)
        starts = {}
        for kind in ("rows", "spans", "kept", "visual"):
            counts = file.get_tensor(f"{kind}_of")
            starts[kind] = [0, *counts.cumsum(0).tolist()]
            if kind == "rows":
                self.lengths += counts.tolist()
        self._starts.append(starts)
        self._greedy += file.get_tensor("greedy").tolist()
        self.conversations += file.get_tensor("conversation").tolist()
        self._where += [(shard, i) for i in range(len(starts["rows"]) - 1)]
        self.hidden_size = file.get_slice("hidden").get_shape()[1]

    def _file(self, shard: int) -> Any:
        if shard not in self._files:
            self._files[shard] = safe_open(self.paths[shard], "pt").__enter__()
        return self._files[shard]

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        shard, own = self._where[index]
        file, starts = self._file(shard), self._starts[shard]

        def read(name: str) -> Tensor:
            start = starts[_COUNTED_BY[name]]
            return file.get_slice(name)[start[own] : start[own + 1]]

        with_image = starts["spans"][own + 1] > starts["spans"][own]
        return Sample(
            tokens=read("tokens").long(),
            visual=read("visual"),
            answer=read("answer"),
            spans=read("spans").long(),
            greedy=self._greedy[index],
            conversation=self.conversations[index],
            kept=read("kept"),
            hidden=read("hidden"),
            images=read("images") if self.needed.images and with_image else None,
            seen=read("seen") if self.needed.seen and with_image else None,
        )


def shard_paths(directory: str | Path) -> list[Path]:
    """The shards of a capture in order; a file that was being written when it stopped is none."""
    return sorted(Path(directory).glob("shard-*.safetensors"))


def shard_header(path: Path) -> dict[str, Any]:
    """``columns`` and ``note`` of a shard; HivisError if it is not one."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {})["capture"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise HivisError(f"{path}: wanted a readable shard of captured data, got {error}") from None


def split(conversations: Sequence[int], held_out: int, seed: int) -> tuple[list[int], list[int]]:
    """``(training, held out)`` indices of samples, from the conversation that each belongs to.

    A conversation is held out whole: its later questions repeat what was said before. The seed
    alone says which; about ``held_out`` samples are, and at most a fifth of all.
    """
    order = sorted(set(conversations))
    random.Random(seed).shuffle(order)
    sizes = Counter(conversations)
    most = min(held_out, len(conversations) // 5)
    chosen: set[int] = set()
    for conversation in order:
        if sizes[conversation] <= most:
            chosen.add(conversation)
            most -= sizes[conversation]
    training = [i for i, own in enumerate(conversations) if own not in chosen]
    return training, [i for i, own in enumerate(conversations) if own in chosen]


def batch_order(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """One pass over all samples in random batches, those of like length together.

    Little of a batch is padding then. The seed alone says the order.
    """
    rng = random.Random(seed)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    groups = []
    for start in range(0, len(order), size * 16):
        near = sorted(order[start : start + size * 16], key=lambda i: lengths[i])
        groups += [near[i : i + size] for i in range(0, len(near), size)]
    rng.shuffle(groups)
    return groups
