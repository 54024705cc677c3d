"""Result files: checked before a run, written after it."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from hivis.errors import HivisError

PLOT_TYPES = (".png", ".svg", ".pdf")


def check_writable(path: Path | None, name: str) -> None:
    """Refuse a result file that could not be written, before the run and not after it.

    Args:
        name: of the option that gave ``path``.

    Raises:
        HivisError: ``path`` is a folder, or its folder is missing or takes no file.
    """
    if path is None:
        return
    # Asking for permission is not enough: root has it everywhere, and some folders take no file.
    try:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        with NamedTemporaryFile(dir=path.resolve().parent):
            pass
    except OSError as error:
        raise HivisError(
            f"{name}: wanted a file in a folder that can be written, got {path} ({error.strerror})"
        ) from None


def check_plot(path: Path | None, name: str) -> None:
    """Refuse an image that could not be drawn, likewise.

    Raises:
        HivisError: ``path`` has an unknown file type, or matplotlib is not installed.
    """
    if path is None:
        return
    if path.suffix.lower() not in PLOT_TYPES:
        raise HivisError(f"{name}: wanted a name in {', '.join(PLOT_TYPES)}, got {path}")
    if find_spec("matplotlib") is None:
        raise HivisError(f"{name}: wanted matplotlib installed (pip install matplotlib), got none")


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write beside ``path`` and rename, so that half a file is never read."""
    text = json.dumps(document, indent=1)
    # A list of plain numbers goes on one line.
    text = re.sub(r"\[\n[^\[\]{}\"]*\]", lambda found: " ".join(found[0].split()), text)
    draft = path.with_name(path.name + ".part")
    draft.write_text(text + "\n")
    draft.replace(path)
