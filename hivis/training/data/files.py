"""The settings file of a capture, and fingerprints of files: only equal inputs resume a capture."""

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
    """Write the settings of a new capture, or compare them with those of a started one.

    Args:
        wanted: the settings, as JSON.

    Raises:
        HivisError: they differ, or there are shards without a settings file.
    """
    path = directory / SETTINGS_FILE
    if not path.exists():
        if shard_paths(directory):
            raise HivisError(f"{directory}: wanted {SETTINGS_FILE} beside its shards, got none")
        directory.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
        return
    started, now = _flat(read_settings(directory)), _flat(wanted)
    others = [name for name in started.keys() ^ now.keys() if not name.startswith("sources.")]
    if others:
        raise HivisError(
            f"{path}: wanted the settings that this version of hivis writes, got a difference in "
            f"{', '.join(sorted(others))}: capture into another folder"
        )
    for name in sorted({*started, *now}):
        if started.get(name) != now.get(name):
            raise HivisError(
                f"{path}: {name}: wanted {started.get(name)}, as when this capture was started, "
                f"got {now.get(name)}"
            )


def read_settings(directory: Path) -> dict[str, Any]:
    """The settings with which a capture was started; HivisError if they cannot be read."""
    path = directory / SETTINGS_FILE
    try:
        settings = json.loads(path.read_text())
        if not isinstance(settings, dict) or not isinstance(settings.get("sources"), dict):
            raise ValueError("other JSON")
    except (OSError, ValueError) as error:
        raise HivisError(f"{path}: wanted the settings of a capture, got {error}") from None
    return settings


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write JSON into a file that appears complete or not at all."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(document, indent=1) + "\n")


def _flat(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries with those of inner dictionaries as ``outer.inner``, one level deep."""
    return {
        name if inner is None else f"{name}.{inner}": value
        for name, entry in entries.items()
        for inner, value in (entry.items() if isinstance(entry, dict) else [(None, entry)])
    }


def fingerprint(path: str | Path, pieces: int = 64) -> str:
    """32 hex digits that stand for the contents of a file, or of a folder of safetensors.

    Of a folder, ``config.json`` and the safetensors files are hashed. Of each file, its size and
    ``pieces`` evenly spaced pieces of 1 MiB are hashed: the whole of a file that is not longer than
    that; of a longer file, a change between the pieces is not noticed. A name that is neither file
    nor folder (a hub name) is returned unchanged.
    """
    path = Path(path) if os.path.exists(path) else path
    if isinstance(path, str):
        return path
    files = [path]
    if path.is_dir():
        files = [f for f in sorted(path.iterdir()) if f.suffix == ".safetensors"]
        files += [f for f in [path / "config.json"] if f.is_file()]
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name if path.is_dir() else ''} {size}\n".encode())
        step = max(_PIECE, -(-max(size - _PIECE, 0) // max(pieces - 1, 1)))
        with file.open("rb") as data:
            for at in range(0, size, step):
                data.seek(at)
                digest.update(data.read(_PIECE))
    return digest.hexdigest()[:32]
