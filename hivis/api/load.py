"""``hivis.load`` and ``hivis.wrap``: a model ready for use, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hivis.api.load_drafter import DrafterChoice
from hivis.api.model import Model
from hivis.bundled import paths
from hivis.core.device import choose_device, choose_dtype
from hivis.core.drafter import Drafter
from hivis.core.hub import PROCESSOR_FILES, resolve
from hivis.core.policy import Policy
from hivis.engine.cuda_graphs import capturer_for
from hivis.engine.engine import Engine
from hivis.errors import HivisError
from hivis.models.families.registry import family_of
from hivis.models.load import load_target
from hivis.models.processor import PromptProcessor
from hivis.models.target import HuggingFaceTarget
from hivis.policies.registry import policy_of


def load(
    model: str | Path | None = None,
    drafter: str | Path | Drafter | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    policy: str | Policy = "cost",
    drafter_weights: str = "full",
    draft_vocab: int | str | Path | None = None,
    drafter_config: str | Path | None = None,
    graphs: bool | None = None,
    compile: bool = False,
    device_map: None = None,
) -> Model:
    """Load a VLM and a drafter for it.

    Args:
        model: folder or hub name; by default the small model that ships with hivis.
        drafter: folder or hub name of a HiViS, EAGLE-2 or ViSpec drafter, or of a smaller VLM or
            language model with the same tokenizer; or a drafter object. By default the HiViS
            drafter of the model that ships with hivis, and none for others. ``"none"``: none.
        dtype: ``"bfloat16"``, ``"float16"``, ``"float32"`` or torch's; ``"auto"`` is bfloat16
            where the device has units for it.
        device: ``"auto"`` is the GPU if there is one that hivis has kernels for.
        policy: how large the draft trees are: ``"cost"``, ``"confidence"``, ``"fixed"`` or a
            policy object (``docs/policies.md``). It cannot change the output.
        drafter_weights: ``"full"`` (as the target's), ``"int8"`` or ``"int4"``, with groups of 32
            to 128 inputs also ``"int4-32"`` and ``"int4-128"``: the format of the weights of a
            HiViS, EAGLE-2 or ViSpec drafter (``docs/performance.md``). It cannot change the
            output.
        draft_vocab: how many of the target's most frequent tokens such a drafter drafts, by
            the list beside it, or a file with a list; by default all. It cannot change the output.
        drafter_config: the ``config.json`` of a drafter's checkpoint that comes without one.
        graphs: whether cycles are captured once and replayed as CUDA graphs; by default where
            there is CUDA.
        compile: let ``torch.compile`` make the model's pass over a tree. It is slow to begin with:
            a minute or more for every size of trees and of the cache. Plain decoding goes through
            it, too.
        device_map: refused: all of a model is on one device.

    Raises:
        HivisError: nothing there, damaged, of an unsupported family or kind, a drafter for another
            target, or a device or dtype that cannot be had.
    """
    if device_map is not None:
        raise HivisError(
            f"device_map: wanted none (a model is on one device, see device), got {device_map!r}"
        )
    if model is not None and not isinstance(model, (str, Path)):
        raise HivisError(f"model: wanted a folder or a hub name, got {type(model).__name__}")
    place = choose_device(device)
    number = choose_dtype(dtype, place)
    chosen = policy_of(policy)
    if model is None:
        model, drafter = paths.TARGET, paths.HIVIS if drafter is None else drafter
    _check(place, graphs, compile)
    choice = DrafterChoice(drafter, drafter_weights, draft_vocab, drafter_config)
    target, processor = load_target(model, number, place)
    if compile:
        target.compile()
    ready = choice.load(target, processor, chosen)
    return Model(Engine(target, ready, chosen, graphs), processor)


def wrap(
    model: Any,
    drafter: str | Path | Drafter | None = None,
    processor: Any = None,
    *,
    policy: str | Policy = "cost",
    drafter_weights: str = "full",
    draft_vocab: int | str | Path | None = None,
    drafter_config: str | Path | None = None,
    graphs: bool | None = None,
    compile: bool = False,
) -> Model:
    """Use a Hugging Face model that is loaded already.

    The model object is shared, not copied, and can still be used: ``model.generate`` gives what it
    gave before. Its language model is switched to an attention that is hivis's own for the draft
    trees and torch's SDPA for everyone else; a model that ran with another one, such as
    flash-attention, runs with SDPA from then on. After changing the model's weights
    (``model.to``, an adapter), call ``hivis.wrap`` again.

    Args:
        model: of a supported family, in evaluation mode from then on, on any one device.
        drafter: as in :func:`load`.
        processor: the model's, as ``AutoProcessor`` loads it; by default it is loaded from where
            the model came from.
        policy, drafter_weights, draft_vocab, drafter_config, graphs, compile: as in :func:`load`.

    Raises:
        HivisError: no model of a supported family, or as :func:`load`.
    """
    config: Any = getattr(model, "config", None)
    is_model = isinstance(model, torch.nn.Module) and hasattr(config, "model_type")
    if not is_model:
        raise HivisError(f"model: wanted a Hugging Face model, got {type(model).__name__}")
    family = family_of(config.model_type)
    chosen = policy_of(policy)
    _check(model.device, graphs, compile)
    choice = DrafterChoice(drafter, drafter_weights, draft_vocab, drafter_config)
    if processor is None:
        name = getattr(config, "_name_or_path", "")
        if not name:
            raise HivisError("processor: wanted one for a model that was not loaded, got none")
        folder = resolve(name, "processor", [PROCESSOR_FILES])
        prompts = PromptProcessor.load(folder, model)
    else:
        prompts = PromptProcessor.of(processor, model)
    target = HuggingFaceTarget(model, family)
    if compile:
        target.compile()
    ready = choice.load(target, prompts, chosen)
    return Model(Engine(target, ready, chosen, graphs), prompts)


def _check(device: torch.device, graphs: object, compile: object) -> None:
    """HivisError for what can be known to be wrong before anything is loaded."""
    if graphs is not None and not isinstance(graphs, bool):
        raise HivisError(f"graphs: wanted True, False or None, got {graphs!r:.60}")
    if not isinstance(compile, bool):
        raise HivisError(f"compile: wanted True or False, got {compile!r:.60}")
    capturer_for(device, graphs)
