"""Captured answers: the content of a sample, and the shard files that hold samples.

A capture is a directory of safetensors shards. A shard stores its samples column by column, end to
end. They are read from disk one by one on access, so a capture may be larger than the memory.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hivis.errors import HivisError, first_line, shorten
from hivis.training.data.atomic import replacing

HiddenRows = Literal["text", "edges", "all"]
_HIDDEN_ORDER: tuple[HiddenRows, ...] = ("text", "edges", "all")


@dataclass(frozen=True)
class Columns:
    """What a capture stores besides the tokens, or what a training method needs of a capture.

    Attributes:
        hidden: the rows whose hidden states are stored: ``"text"`` text rows only, ``"edges"``
            also the last row of each image, ``"all"`` every row.
        images: whether the projected embeddings of the visual rows are stored.
        seen: whether the output of the vision tower, before the projector, is stored.
    """

    hidden: HiddenRows = "text"
    images: bool = False
    seen: bool = False

    @classmethod
    def covering(cls, needed: Iterable[Columns]) -> Columns:
        """The fewest columns that cover all of ``needed``."""
        each = list(needed)
        hidden = max((one.hidden for one in each), key=_HIDDEN_ORDER.index)
        return cls(hidden, any(one.images for one in each), any(one.seen for one in each))

    def covers(self, needed: Columns) -> bool:
        """Whether a capture with these columns is enough for a method that needs ``needed``."""
        return (
            _HIDDEN_ORDER.index(self.hidden) >= _HIDDEN_ORDER.index(needed.hidden)
            and self.images >= needed.images
            and self.seen >= needed.seen
        )

    def keeps(self, visual: Tensor, spans: Tensor) -> Tensor:
        """The rows whose hidden states are stored.

        Args:
            visual: ``[n]`` bool, the visual rows.
            spans: ``[p, 2]`` int64, half-open rows of each image.

        Returns:
            ``[n]`` bool.
        """
        if self.hidden == "all":
            return torch.ones_like(visual)
        kept = ~visual
        if self.hidden == "edges":
            kept[spans[:, 1] - 1] = True
        return kept


@dataclass(frozen=True)
class Sample:
    """One prompt and the target's own answer to it: n rows, those of the answer last.

    Attributes:
        tokens: ``[n]`` int64; a placeholder at visual rows.
        visual: ``[n]`` bool, the visual rows.
        answer: ``[n]`` bool, the tokens of the answer without a final EOS: a drafter never
            predicts a hidden state at or after EOS.
        spans: ``[p, 2]`` int64, half-open rows of each of the p images, in order.
        greedy: whether the answer was decoded greedily.
        conversation: a number that all answers from one conversation share.
        kept: ``[n]`` bool, the rows whose hidden states are stored.
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
        """``[r, E]`` hidden states of ``rows`` ``[r]`` int64; zeros where none is stored."""
        index = self.kept.cumsum(0)[rows] - 1
        found = self.hidden[index.clamp(min=0)]
        return found * self.kept[rows].unsqueeze(1).to(found.dtype)


#: The unit of each column's first dimension. For each unit a shard has a tensor ``<unit>_of`` with
#: the count of every sample.
_UNIT_OF = {
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
    """Write samples end to end, floats as bfloat16; the file appears complete or not at all.

    Args:
        note: stored as JSON with the samples; see :func:`shard_header`.
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
    for name, stored in (("images", columns.images), ("seen", columns.seen)):
        parts = [p for s in samples if (p := getattr(s, name)) is not None]
        if stored and parts:
            tensors[name] = torch.cat(parts).bfloat16()
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"columns": asdict(columns), "note": note or {}})
    with replacing(path) as draft:
        save_file(tensors, draft, metadata={"capture": text})


class Capture(Sequence[Sample]):
    """The samples of a directory of shards, read from disk on access.

    Args:
        needed: the columns that are read; the capture may have more.

    Raises:
        HivisError: the directory has no shards, or a shard is not readable or lacks a needed
            column.
    """

    def __init__(self, directory: str | Path, needed: Columns) -> None:
        self.directory = Path(directory)
        self.paths = shard_paths(directory)
        if not self.paths:
            raise HivisError(f"captured data: wanted shard-*.safetensors in {directory}, got none")
        self.needed = needed
        self._files: dict[int, Any] = {}
        self._starts: list[dict[str, list[int]]] = []
        self._places: list[tuple[int, int]] = []  # of each sample: its shard, its index in there
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
        try:
            for unit in dict.fromkeys(_UNIT_OF.values()):
                counts = file.get_tensor(f"{unit}_of")
                starts[unit] = [0, *counts.cumsum(0).tolist()]
                if unit == "rows":
                    self.lengths += counts.tolist()
            self._check_lengths(file, starts, path)
            self._greedy += file.get_tensor("greedy").tolist()
            self.conversations += file.get_tensor("conversation").tolist()
            self.hidden_size = file.get_slice("hidden").get_shape()[1]
        except SafetensorError as error:
            raise HivisError(f"{path}: wanted a complete shard, got: {first_line(error)}") from None
        self._starts.append(starts)
        self._places += [(shard, i) for i in range(len(starts["rows"]) - 1)]

    def _check_lengths(self, file: Any, starts: dict[str, list[int]], path: Path) -> None:
        """HivisError unless each column that is read is as long as the counts say."""
        any_image = starts["spans"][-1] > 0  # without one, neither of these two is written
        optional = {"images": self.needed.images, "seen": self.needed.seen}
        for name, unit in _UNIT_OF.items():
            if name in optional and not (optional[name] and any_image):
                continue
            wanted, got = starts[unit][-1], file.get_slice(name).get_shape()[0]
            if got != wanted:
                raise HivisError(f"{path}: {name}: wanted {wanted} entries, got {got}")

    def _file(self, shard: int) -> Any:
        if shard not in self._files:
            self._files[shard] = safe_open(self.paths[shard], "pt").__enter__()
        return self._files[shard]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        shard, place = self._places[index]
        file, starts = self._file(shard), self._starts[shard]

        def read(name: str) -> Tensor:
            start = starts[_UNIT_OF[name]]
            return file.get_slice(name)[start[place] : start[place + 1]]

        with_image = starts["spans"][place + 1] > starts["spans"][place]
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
    """The shards of a capture in order. A file that was not completed does not count."""
    return sorted(Path(directory).glob("shard-*.safetensors"))


def shard_header(path: Path) -> dict[str, Any]:
    """``columns`` and ``note`` of a shard.

    Raises:
        HivisError: the file is not a shard, or one whose columns this version of hivis does not
            read.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["capture"])
        columns, _ = dict(header["columns"]), header["note"]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise HivisError(f"{path}: wanted a readable shard of captured data, got {error}") from None
    wanted = [field.name for field in fields(Columns)]
    if columns.keys() != set(wanted) or columns["hidden"] not in _HIDDEN_ORDER:
        raise HivisError(
            f"{path}: wanted a shard with the columns {', '.join(wanted)}, got {shorten(columns)}, "
            "as another version of hivis writes them: capture the answers again"
        )
    return header


def split(conversations: Sequence[int], held_out: int, seed: int) -> tuple[list[int], list[int]]:
    """Choose which samples are held out, by conversation.

    All samples of a conversation stay together, since its later prompts contain its earlier turns.
    The choice depends only on the conversations, ``held_out`` and the seed.

    Args:
        conversations: of each sample, the conversation that it belongs to.
        held_out: how many samples to hold out, about; never more than a fifth of all.

    Returns:
        ``(training, held out)`` indices of samples.
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
    """Batches of sample indices for one epoch, in random order.

    Samples of similar length share a batch, so that little of it is padding. The order depends only
    on the lengths, the size and the seed.
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
