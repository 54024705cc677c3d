"""Capture the target's own answers to many prompts, and go on where a capture was cut off.

Batch k is prompts k B .. k B + B - 1, in the order given, and it alone (with the seed) says whether
and how the answers are sampled. So a capture that was killed and taken up again writes the same
files, byte for byte, as one that ran through; with a batch size, model and machine of its own.
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
from hivis.training.data.files import agree, settings_of, write_json
from hivis.training.data.samples import Columns, Sample, save_shard, shard_header, shard_paths

#: Stands beside the shards once all prompts are done.
REPORT_FILE = "report.json"


@dataclass(frozen=True)
class CaptureSettings:
    """What to capture.

    Attributes:
        columns: what to keep besides the tokens.
        sampled: share of the batches that are sampled at temperature 1; the others are greedy.
        max_new_tokens: where an answer is cut off.
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
class Skipped:
    """A prompt that was left out: its index, and why."""

    prompt: int
    why: str


@dataclass(frozen=True)
class CaptureBatch:
    """The answers to prompts ``start`` to ``end`` - 1, without those that were skipped."""

    start: int
    end: int
    samples: list[Sample]
    skipped: list[Skipped]


@dataclass(frozen=True)
class CaptureReport:
    """What a capture holds: how many samples, and which prompts it lacks."""

    samples: int
    skipped: list[Skipped]


def capture(
    answerer: Answerer[P], prompts: Sequence[P], settings: CaptureSettings, start: int = 0
) -> Iterator[CaptureBatch]:
    """Answer the prompts from ``start`` on, a multiple of the batch size, batch by batch.

    A prompt that cannot be prepared (its image cannot be read), or with whose answer the model's
    positions may not suffice, is skipped; the batch it belongs to is smaller then.
    """
    device = torch.device(answerer.model.device)
    for at in range(start, len(prompts), settings.batch):
        end = min(at + settings.batch, len(prompts))
        ready: list[Inputs] = []
        conversations: list[int] = []
        skipped = []
        for index in range(at, end):
            try:
                ready.append(_prepared(answerer, prompts[index], settings))
                conversations.append(answerer.conversation(prompts[index]))
            except HivisError as error:
                skipped.append(Skipped(index, str(error)))
        chance = random.Random(f"hivis capture {settings.seed} {at // settings.batch}")
        greedy = chance.random() >= settings.sampled
        samples: list[Sample] = []
        if ready:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(chance.getrandbits(62))
                samples = answer(
                    answerer,
                    ready,
                    conversations,
                    settings.columns,
                    settings.max_new_tokens,
                    greedy,
                )
        yield CaptureBatch(at, end, samples, skipped)


def _prepared(answerer: Answerer[P], prompt: P, settings: CaptureSettings) -> Inputs:
    inputs = answerer.prepare(prompt)
    rows, room = inputs.tokens.shape[1], answerer.max_positions - settings.max_new_tokens
    if rows > room:
        raise HivisError(
            f"prompt: wanted at most {room} rows, so that {settings.max_new_tokens} more fit the "
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
    """Capture into ``directory``, or go on with the capture that was begun there.

    Args:
        sources: what the capture is made from: a name (data, target) and its
            :func:`hivis.training.data.files.fingerprint`.
        progress: show a bar on stderr.

    Raises:
        HivisError: the directory holds a capture of other settings or sources, or a shard that is
            not readable; or no prompt could be answered.
    """
    directory = Path(directory)
    agree(directory, _description(answerer, len(prompts), settings, sources))
    report, start, shards = _so_far(directory)
    held: list[Sample] = []
    skipped: list[Skipped] = []
    first = start
    with _Bar(len(prompts), start, len(report.skipped), progress) as bar:
        for batch in capture(answerer, prompts, settings, start):
            held += batch.samples
            skipped += batch.skipped
            bar.advance(batch)
            full = batch.end % settings.shard == 0 or batch.end == len(prompts)
            # A shard cannot be empty: prompts that were all skipped count towards the next one.
            if full and held:
                note = {"start": first, "next": batch.end, "skipped": [asdict(s) for s in skipped]}
                path = directory / f"shard-{shards:05d}.safetensors"
                save_shard(path, held, settings.columns, note)
                report = CaptureReport(report.samples + len(held), report.skipped + skipped)
                held, skipped, first, shards = [], [], batch.end, shards + 1
    report = CaptureReport(report.samples, report.skipped + skipped)
    if not report.samples:
        why = f" (prompt {report.skipped[0].prompt}: {report.skipped[0].why})" if prompts else ""
        raise HivisError(f"prompts: wanted one that can be answered, got {len(prompts)} not{why}")
    write_json(directory / REPORT_FILE, asdict(report))
    return report


def check_finished(directory: Path, sources: Mapping[str, str]) -> None:
    """What a training run wants of a capture that it was given.

    Args:
        sources: fingerprints of the ``target``, and of what has a ``look`` of its own at images.

    Raises:
        HivisError: it was cut off, or made from something else.
    """
    begun = settings_of(directory)
    if not (directory / REPORT_FILE).exists():
        _, done, _ = _so_far(directory)
        raise HivisError(
            f"captured data {directory}: wanted the answers to all {begun['prompts']} prompts, got "
            f"those to {done} (the same capture command goes on with it)"
        )
    for name in ("target", "look"):
        wanted, got = sources.get(name), begun["sources"].get(name)
        if got != wanted:
            raise HivisError(
                f"captured data {directory}: wanted it made with the {name} {wanted}, got {got}"
            )


def _so_far(directory: Path) -> tuple[CaptureReport, int, int]:
    """What the complete shards hold, the next prompt, and how many shards there are."""
    samples, skipped, start = 0, [], 0
    paths = shard_paths(directory)
    for number, path in enumerate(paths):
        note = shard_header(path)["note"]
        if path.name != f"shard-{number:05d}.safetensors" or note.get("start") != start:
            raise HivisError(
                f"{path}: wanted shard {number} with the prompts from {start} on, got those from "
                f"{note.get('start')} on"
            )
        skipped += [Skipped(**entry) for entry in note["skipped"]]
        samples += note["next"] - start - len(note["skipped"])
        start = note["next"]
    return CaptureReport(samples, skipped), start, len(paths)


def _description(
    answerer: Answerer[Any], prompts: int, settings: CaptureSettings, sources: Mapping[str, str]
) -> dict[str, Any]:
    """All that the bytes of a capture depend on, but for the machine."""
    own = {"prompts": prompts, "dtype": str(answerer.model.dtype).removeprefix("torch.")}
    return {**own, **asdict(settings), "sources": dict(sources)}


class _Bar:
    """Prompts done, answered tokens per second, and prompts skipped."""

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
        self._skipped, self._tokens, self._begun = skipped, 0, time.monotonic()

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def advance(self, batch: CaptureBatch) -> None:
        self._tokens += sum(int(sample.answer.sum()) for sample in batch.samples)
        self._skipped += len(batch.skipped)
        speed = self._tokens / max(time.monotonic() - self._begun, 1e-3)
        self._progress.update(self._task, completed=batch.end, speed=speed, skipped=self._skipped)
