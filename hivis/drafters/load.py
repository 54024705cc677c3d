"""Load a drafter by local folder or hub name, ready to be bound to its target."""

from __future__ import annotations

import re
from pathlib import Path

from hivis.drafters import checkpoint, published
from hivis.drafters.config import HiViSConfig, ViSpecConfig
from hivis.drafters.draft_vocab import head_ids_of
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.vispec import ViSpecDrafter
from hivis.errors import HivisError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def load_drafter(
    path: str | Path,
    revision: str | None = None,
    config: str | Path | None = None,
    *,
    weights: str = "full",
    head: int | str | Path | None = None,
) -> HiViSDrafter | ViSpecDrafter:
    """Read a drafter: one of ours, or one that its authors published.

    Device and dtype are those of the target that it is bound to.

    Args:
        path: a folder, or a name on the Hugging Face hub such as ``"JLKang/ViSpec-..."``. The hub
            is asked only where there is no such folder.
        revision: of a hub name: a branch, tag or commit.
        config: the ``config.json`` of a published checkpoint that comes without one.
        weights: how quantized it shall be once it is bound: ``"full"`` is the target's dtype; the
            others are in :mod:`hivis.drafters.quantize`.
        head: how many of the target's most frequent tokens it drafts, by the list beside it, or a
            file with a list (:mod:`hivis.drafters.draft_vocab`); ``None``: all tokens.

    Raises:
        HivisError: folder missing and no such name on the hub, weights corrupt, a pickle that holds
            more than tensors, of an unknown kind or wrong sizes, no such format of weights, or no
            such list.
    """
    folder = folder_of(path, revision)
    drafter = _read(folder, config)
    drafter.quantize(weights, None if head is None else head_ids_of(folder, head))
    return drafter


def _read(folder: Path, config: str | Path | None) -> HiViSDrafter | ViSpecDrafter:
    config_file = folder / checkpoint.CONFIG_FILE if config is None else Path(config)
    raw = checkpoint.read_json(config_file)
    # Every config of ours says what it is; published ones are told apart by their tensors.
    if config is None and "type" in raw:
        kind = raw["type"]
        if kind == HiViSConfig.KIND:
            return HiViSDrafter.load(folder)
        if kind == ViSpecConfig.KIND:
            return ViSpecDrafter.load(folder)
        raise HivisError(f"{config_file}: type: wanted 'hivis' or 'vispec', got {kind!r}")
    read, tensors = published.load(folder, config_file)
    if isinstance(read, ViSpecConfig):
        return ViSpecDrafter(read, tensors)
    return HiViSDrafter(read, tensors)


def folder_of(path: str | Path, revision: str | None = None) -> Path:
    """``path`` if it is a folder, else the copy of what the hub has under that name."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    if isinstance(path, Path) or not _HUB_NAME.fullmatch(path):
        raise HivisError(f"drafter: wanted a folder or a hub name, got {path}")
    return published.download(path, revision)
