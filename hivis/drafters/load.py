"""Load a drafter by local folder or hub name, ready to be bound to its target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hivis.core.drafter import Drafter
from hivis.drafters import checkpoint, published
from hivis.drafters.config import HiViSConfig, ViSpecConfig
from hivis.drafters.draft_vocab import draft_vocab_of
from hivis.drafters.hivis import HiViSDrafter
from hivis.drafters.inspect import CheckpointInfo, inspect
from hivis.drafters.quantize import format_of
from hivis.drafters.registry import LoadRequest, call, quantizable_titles, recognize
from hivis.drafters.vispec import ViSpecDrafter
from hivis.errors import HivisError


def load_drafter(
    path: str | Path,
    revision: str | None = None,
    config: str | Path | None = None,
    *,
    weights: str = "full",
    draft_vocab: int | str | Path | None = None,
    hiding: Mapping[str, Any] | None = None,
) -> Drafter:
    """Read a drafter: one of ours, one that its authors published, or one of a registered method.

    Device and dtype are those of the target that it is bound to. A small model as a drafter needs
    its target to be loaded: :func:`hivis.api.load_drafter.load_any_drafter` takes it too.

    Args:
        path: a folder, or a name on the Hugging Face hub such as ``"JLKang/ViSpec-..."``. The hub
            is asked only where there is no such folder.
        revision: of a hub name: a branch, tag or commit.
        config: the ``config.json`` of a published checkpoint that comes without one.
        weights: format of its weights once it is bound: ``"full"`` is the target's dtype; the
            others are in :mod:`hivis.drafters.quantize`.
        draft_vocab: how many of the target's most frequent tokens it drafts, by the list beside
            it, or a file with a list (:mod:`hivis.drafters.draft_vocab`); ``None``: all tokens.
        hiding: for a published HiViS drafter: how the images of its target are hidden, as entries
            of :class:`hivis.drafters.config.HiViSConfig` (``{}``: visual rows alone, the rows that
            are left are counted). Its checkpoint does not say.

    Raises:
        HivisError: folder missing and no such name on the hub, weights corrupt, a pickle that holds
            more than tensors, of an unknown kind or wrong sizes, no such format of weights, no
            such list, or a published HiViS drafter without ``hiding``.
    """
    return load_checkpoint(
        LoadRequest(inspect(path, revision, config), hiding=hiding), weights, draft_vocab
    )


def load_checkpoint(
    request: LoadRequest, weights: str = "full", draft_vocab: int | str | Path | None = None
) -> Drafter:
    """The drafter of a checkpoint; arguments and errors as in :func:`load_drafter`."""
    format_of(weights)
    method = recognize(request.info)
    as_it_is = weights == "full" and draft_vocab is None
    if not as_it_is and not method.quantizable:
        raise HivisError(
            f"drafter: wanted a {quantizable_titles()} one for quantized weights or a draft "
            f"vocabulary, got {method.title} at {request.info.source}"
        )
    drafter: Any = call(method.load, request)
    if not as_it_is:
        drafter.quantize(
            weights,
            None if draft_vocab is None else draft_vocab_of(request.info.folder, draft_vocab),
        )
    return drafter


# What the records of the methods name.


def is_hivis(info: CheckpointInfo) -> bool:
    if info.declared is not None:
        return info.declared == HiViSConfig.KIND and info.config.get("rows") != "all"
    return published.kind_of(info) == "hivis"


def is_eagle(info: CheckpointInfo) -> bool:
    if info.declared is not None:
        return info.declared == HiViSConfig.KIND and info.config.get("rows") == "all"
    return published.kind_of(info) == "eagle"


def is_vispec(info: CheckpointInfo) -> bool:
    if info.declared is not None:
        return info.declared == ViSpecConfig.KIND
    return published.kind_of(info) == "vispec"


def is_whole_model(info: CheckpointInfo) -> bool:
    return info.is_whole_model


def load_hivis(request: LoadRequest) -> HiViSDrafter:
    config, tensors = _read(request, HiViSConfig)
    return HiViSDrafter(config, tensors)


def load_vispec(request: LoadRequest) -> ViSpecDrafter:
    config, tensors = _read(request, ViSpecConfig)
    return ViSpecDrafter(config, tensors)


def _read(
    request: LoadRequest, kind: type[checkpoint.Config]
) -> tuple[checkpoint.Config, dict[str, Tensor]]:
    info = request.info
    if info.declared is not None:
        return checkpoint.read(info.folder, checkpoint.parse(info.config, info.config_file, kind))
    config, tensors = published.load(info, request.hiding)
    assert isinstance(config, kind)
    return config, tensors
