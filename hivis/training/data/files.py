"""What a capture was begun with: kept beside its shards, so that only the same goes on with it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from hivis.errors import HivisError
from hivis.training.data.atomic import replacing
from hivis.training.data.samples import shard_paths

SETTINGS_FILE = "capture.json"
_PIECE = 1 << 20  # bytes


def check_settings(directory: Path, wanted: dict[str, Any]) -> None:
    """Write a description beside the shards to come, or compare it with the one there.

    Raises:
        HivisError: they differ, or there are shards without a description.
    """
    path = directory / SETTINGS_FILE
    if not path.exists():
        if shard_paths(directory):
            raise HivisError(f"{directory}: wanted {SETTINGS_FILE} beside its shards, got none")
        directory.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
        return
    there, here = _flat(read_settings(directory)), _flat(wanted)
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            raise HivisError(
                f"{path}: {name}: wanted {there.get(name)}, as this capture was begun, got "
                f"{here.get(name)}"
            )


def read_settings(directory: Path) -> dict[str, Any]:
    """What a capture was begun with; HivisError if that cannot be read."""
    path = directory / SETTINGS_FILE
    try:
        begun = json.loads(path.read_text())
        if not isinstance(begun, dict) or not isinstance(begun.get("sources"), dict):
            raise ValueError("something else")
    except (OSError, ValueError) as error:
        raise HivisError(f"{path}: wanted the settings of a capture, got {error}") from None
    return begun


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a file that is there whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(document, indent=1) + "\n")


def _flat(entries: dict[str, Any]) -> dict[str, Any]:
    return {
        name if inner is None else f"{name}.{inner}": value
        for name, entry in entries.items()
        for inner, value in (entry.items() if isinstance(entry, dict) else [(None, entry)])
    }


def fingerprint(path: str | Path, pieces: int = 64) -> str:
    """A short name for the contents of a file, or of a folder of safetensors.

    Of a folder, ``config.json`` and the safetensors count. Of a file, its size and so many evenly
    spaced pieces of 1 MiB: all of it if that is not longer, but a change between the pieces of a
    larger one goes unseen. What is neither file nor folder (a hub name) stands for itself.
    """
    path = Path(path) if os.path.exists(path) else path
    if isinstance(path, str):
        return path
    files = [path]
    if path.is_dir():
        files = [f for f in sorted(path.iterdir()) if f.suffix == ".safetensors"]
        files += [f for f in [path / "config.json"] if f.is_file()]
    found = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        found.update(f"{file.name if path.is_dir() else ''} {size}\n".encode())
        step = max(_PIECE, -(-max(size - _PIECE, 0) // max(pieces - 1, 1)))
        with file.open("rb") as data:
            for at in range(0, size, step):
                data.seek(at)
                found.update(data.read(_PIECE))
    return found.hexdigest()[:32]
