"""The token list of a draft vocabulary, counted on a target's own answers."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from hivis.core.hub import resolve_model
from hivis.drafters.draft_vocab import DRAFT_VOCAB_FILE, save_draft_vocab
from hivis.errors import HivisError, first_line
from hivis.models.drafter_sizes import read_sizes
from hivis.models.eos import eos_of_files
from hivis.training.data.files import fingerprint, read_settings
from hivis.training.data.samples import Capture, Columns
from hivis.training.data.token_counts import count_tokens, rank_tokens


def write_draft_vocab(target: str, data: Path, out: Path) -> Path:
    """Write a target's tokens by frequency, and print which share of its answers they cover.

    Args:
        target: folder or hub name of the VLM.
        data: folder of its captured answers; the capture need not be finished.
        out: the file to write, or the folder of a drafter.

    Returns:
        The file.

    Raises:
        HivisError: there is no such target, the answers are missing or of another target, or the
            file cannot be written.
    """
    folder = resolve_model(target)
    wanted, got = fingerprint(folder), read_settings(data)["sources"].get("target")
    if got != wanted:
        raise HivisError(
            f"--data {data}: wanted answers of the target {wanted}, got answers of {got}"
        )
    capture = Capture(data, Columns())
    counts = count_tokens(capture, read_sizes(folder).layer["vocab_size"])
    ids = rank_tokens(counts, eos_of_files(folder))
    path = out / DRAFT_VOCAB_FILE if out.is_dir() else out
    try:
        save_draft_vocab(path, ids)
    except Exception as error:  # safetensors wraps the system's error in a class of its own
        raise HivisError(
            f"--out: wanted a file that can be written, got {path} ({first_line(error)})"
        ) from None
    console, total = Console(), int(counts.sum())
    console.print(
        f"{path}: {len(ids)} different tokens, counted in {len(capture)} answers of {total} tokens",
        soft_wrap=True,
    )
    covered = counts[ids].cumsum(0)
    for size in [2**power for power in range(6, 20) if 2**power < len(ids)]:
        console.print(f"the first {size} cover {int(covered[size - 1]) / max(total, 1):.2%}")
    return path
