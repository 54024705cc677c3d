"""Capture the target's own answers to many prompts, and resume a capture that was interrupted.

Batch k holds the prompts k B .. k B + B - 1 in the given order. Whether and how its answers are
sampled depends only on k and the seed. So a capture that was killed and resumed writes the same
files, byte for byte, as one that was not, given the same batch size, model and machine.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hivis.core.target import Inputs
from hivis.errors import HivisError
from hivis.training.data.answers import Answerer, P, answer
from hivis.training.data.files import check_settings, read_settings, write_json
from hivis.training.data.samples import Columns, Sample, save_shard, shard_header, shard_paths

#: Written beside the shards when all prompts are done.
REPORT_FILE = "report.json"


@dataclass(frozen=True)
class CaptureSettings:
    """What to capture, and how.

    Attributes:
        columns: what to store besides the tokens.
        sampled: share of the batches that are sampled at temperature 1; the others are greedy.
        max_new_tokens: the longest answer, in tokens.
        batch: prompts that are answered together.
        shard: prompts per file, a multiple of ``batch``.
    """

    columns: Columns = field(default_factory=Columns)
    sampled: float = 0.5
    max_new_tokens: int = 160
    batch: int = 32
    seed: int = 0
    shard: int = 512

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch"):
            if getattr(self, name) < 1:
                raise HivisError(f"{name}: wanted at least 1, got {getattr(self, name)}")
        if not 0 <= self.sampled <= 1:
            raise HivisError(f"sampled: wanted a share from 0 to 1, got {self.sampled}")
        if self.shard < 1 or self.shard % self.batch:
            raise HivisError(f"shard: wanted a multiple of batch {self.batch}, got {self.shard}")


@dataclass(frozen=True)
class SkippedPrompt:
    """A prompt that was skipped: its index, and the reason."""

    prompt: int
    why: str


@dataclass(frozen=True)
class CaptureBatch:
    """The answers to the prompts from ``start`` to ``end`` - 1, except those that were skipped."""

    start: int
    end: int
    samples: list[Sample]
    skipped: list[SkippedPrompt]


@dataclass(frozen=True)
class CaptureReport:
    """The content of a capture: how many samples, and which prompts were skipped."""

    samples: int
    skipped: list[SkippedPrompt]


def capture(
    answerer: Answerer[P], prompts: Sequence[P], settings: CaptureSettings, start: int = 0
) -> Iterator[CaptureBatch]:
    """Answer the prompts batch by batch, from ``start`` on, which is a multiple of the batch size.

    A prompt is skipped if it cannot be prepared (for example, its image cannot be read), or if it
    and the longest answer need more positions than the model has. Its batch is smaller then.
    """
    device = torch.device(answerer.model.device)
    for first in range(start, len(prompts), settings.batch):
        end = min(first + settings.batch, len(prompts))
        ready: list[Inputs] = []
        conversations: list[int] = []
        skipped = []
        for index in range(first, end):
            try:
                ready.append(_prepared(answerer, prompts[index], settings))
                conversations.append(answerer.conversation(prompts[index]))
            except HivisError as error:
                skipped.append(SkippedPrompt(index, str(error)))
        rng = random.Random(f"hivis capture {settings.seed} {first // settings.batch}")
        greedy = rng.random() >= settings.sampled
        samples: list[Sample] = []
        if ready:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(rng.getrandbits(62))
                samples = answer(
                    answerer,
                    ready,
                    conversations,
                    settings.columns,
                    settings.max_new_tokens,
                    greedy,
                )
        yield CaptureBatch(first, end, samples, skipped)


def _prepared(answerer: Answerer[P], prompt: P, settings: CaptureSettings) -> Inputs:
    inputs = answerer.prepare(prompt)
    rows, limit = inputs.length, answerer.max_positions - settings.max_new_tokens
    if rows > limit:
        raise HivisError(
            f"prompt: wanted at most {limit} rows, so that {settings.max_new_tokens} more fit the "
            f"model's {answerer.max_positions} positions, got {rows}"
        )
    return inputs


def write_capture(
    directory: str | Path,
    answerer: Answerer[P],
    prompts: Sequence[P],
    settings: CaptureSettings,
    sources: Mapping[str, str],
    *,
    progress: bool = True,
) -> CaptureReport:
    """Capture into ``directory``, or resume the capture that was started there.

    Args:
        sources: what the capture is made from: for each name (data, target) its
            :func:`hivis.training.data.files.fingerprint`.
        progress: whether to show a progress bar on stderr.

    Raises:
        HivisError: the directory holds a capture with other settings or sources, or a shard that
            is not readable; or no prompt could be answered.
    """
    directory = Path(directory)
    check_settings(directory, _description(answerer, len(prompts), settings, sources))
    report, start, shards = _so_far(directory)
    pending: list[Sample] = []
    skipped: list[SkippedPrompt] = []
    first = start
    with _CaptureBar(len(prompts), start, len(report.skipped), progress) as bar:
        for batch in capture(answerer, prompts, settings, start):
            pending += batch.samples
            skipped += batch.skipped
            bar.advance(batch)
            full = batch.end % settings.shard == 0 or batch.end == len(prompts)
            # A shard cannot be empty: prompts that were all skipped count towards the next one.
            if full and pending:
                note = {"start": first, "next": batch.end, "skipped": [asdict(s) for s in skipped]}
                path = directory / f"shard-{shards:05d}.safetensors"
                save_shard(path, pending, settings.columns, note)
                report = CaptureReport(report.samples + len(pending), report.skipped + skipped)
                pending, skipped, first, shards = [], [], batch.end, shards + 1
    report = CaptureReport(report.samples, report.skipped + skipped)
    if not report.samples:
        why = f" (prompt {report.skipped[0].prompt}: {report.skipped[0].why})" if prompts else ""
        raise HivisError(
            f"prompts: wanted one that can be answered, got none among {len(prompts)}{why}"
        )
    write_json(directory / REPORT_FILE, asdict(report))
    return report


def check_finished(directory: Path, sources: Mapping[str, str]) -> None:
    """Check that a training run may use a capture.

    Args:
        sources: the fingerprints of the ``target`` and, under ``look``, of a draft model that has
            its own vision tower.

    Raises:
        HivisError: the capture is not finished, or was made from something else.
    """
    settings = read_settings(directory)
    if not (directory / REPORT_FILE).exists():
        _, done, _ = _so_far(directory)
        raise HivisError(
            f"captured data {directory}: wanted the answers to all {settings['prompts']} prompts, "
            f"got those to {done} (run the same capture command again to resume it)"
        )
    for name in ("target", "look"):
        wanted, got = sources.get(name), settings["sources"].get(name)
        if got != wanted:
            raise HivisError(
                f"captured data {directory}: wanted it made with the {name} {wanted}, got {got}"
            )


def _so_far(directory: Path) -> tuple[CaptureReport, int, int]:
    """The content of the complete shards, the next prompt, and the number of shards."""
    samples, skipped, start = 0, [], 0
    paths = shard_paths(directory)
    for number, path in enumerate(paths):
        note = shard_header(path)["note"]
        if path.name != f"shard-{number:05d}.safetensors" or note.get("start") != start:
            raise HivisError(
                f"{path}: wanted shard {number} with the prompts from {start} on, got those from "
                f"{note.get('start')} on"
            )
        skipped += [SkippedPrompt(**entry) for entry in note["skipped"]]
        samples += note["next"] - start - len(note["skipped"])
        start = note["next"]
    return CaptureReport(samples, skipped), start, len(paths)


def _description(
    answerer: Answerer[Any], prompts: int, settings: CaptureSettings, sources: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that the bytes of a capture depend on, except the machine."""
    dtype = str(answerer.model.dtype).removeprefix("torch.")
    return {"prompts": prompts, "dtype": dtype, **asdict(settings), "sources": dict(sources)}


class _CaptureBar:
    """A progress bar: prompts done, answer tokens per second, and prompts skipped."""

    def __init__(self, prompts: int, done: int, skipped: int, shown: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:.0f} tokens/s"),
            TextColumn("{task.fields[skipped]} skipped"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )
        self._task = self._progress.add_task(
            "answering", total=prompts, completed=done, speed=0.0, skipped=skipped
        )
        self._skipped, self._tokens, self._started = skipped, 0, time.monotonic()

    def __enter__(self) -> _CaptureBar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def advance(self, batch: CaptureBatch) -> None:
        self._tokens += sum(int(sample.answer.sum()) for sample in batch.samples)
        self._skipped += len(batch.skipped)
        speed = self._tokens / max(time.monotonic() - self._started, 1e-3)
        self._progress.update(self._task, completed=batch.end, speed=speed, skipped=self._skipped)
