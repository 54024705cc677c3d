"""The one place where a name on the Hugging Face hub becomes a local folder.

It is called once for each thing that is loaded, which is read from the folder from then on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hivis.errors import HivisError, first_line

#: What a processor is loaded from, and a whole model: never a pickle.
PROCESSOR_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
MODEL_FILES = (*PROCESSOR_FILES, "*.safetensors")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve(
    path: str | Path, what: str, wanted: Sequence[Sequence[str]], revision: str | None = None
) -> Path:
    """``path`` if it is a folder, else the local copy of what the hub has under that name.

    Args:
        path: a folder, or a hub name such as ``"JLKang/ViSpec-..."``. The hub is asked only where
            there is no such folder, and never for a :class:`~pathlib.Path`.
        what: it is, for error messages: "drafter", "model".
        wanted: patterns of files to fetch, in turns: the next turn is only asked for if the last
            pattern of this one matched no file. So a pickle that holds the same weights as a
            safetensors file is not fetched beside it.
        revision: a branch, tag or commit.

    Raises:
        HivisError: no folder and no hub name, no such name or revision, or no network and no copy
            in the hub's cache.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if isinstance(path, Path) or not _HUB_NAME.fullmatch(path):
        raise HivisError(f"{what}: wanted a folder or a hub name, got {path}")
    for patterns in wanted:
        folder = _download(path, what, list(patterns), revision)
        if any(folder.glob(patterns[-1])):
            break
    return folder


def resolve_model(path: str | Path, what: str = "model") -> Path:
    """The folder of a whole model and its processor; arguments and errors as in :func:`resolve`."""
    return resolve(path, what, [MODEL_FILES])


def _download(name: str, what: str, patterns: list[str], revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = f"{what} {name}: wanted a folder or a hub name, got no such folder, and "
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except LocalEntryNotFoundError:
        raise HivisError(
            f"{wanted}the hub cannot be reached (no copy in its cache either)"
        ) from None
    except Exception as error:  # the hub and its transport raise kinds of their own
        raise HivisError(f"{wanted}from the hub: {first_line(error)}") from None
