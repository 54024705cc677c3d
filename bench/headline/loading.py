"""Models and drafters of the headline benchmark, as the methods that are measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.common.generation import HUGGING_FACE
from bench.headline.methods import (
    EAGLE,
    HIVIS,
    LOOKUP,
    PLAIN,
    SPEC_LLAVA,
    VISPEC,
    Method,
    hivis_method,
    transformers_method,
)
from bench.headline.options import make_policy
from hivis.api.load_drafter import load_draft_vlm
from hivis.bundled import paths
from hivis.core.device import DTYPES
from hivis.core.drafter import Drafter
from hivis.core.policy import Policy
from hivis.drafters.load import load_drafter
from hivis.drafters.one_layer import OneLayerDrafter
from hivis.drafters.vispec import ViSpecDrafter
from hivis.errors import HivisError
from hivis.models.load import load_model, load_target
from hivis.models.processor import PromptProcessor
from hivis.models.target import HuggingFaceTarget
from hivis.policies.cost import ROUNDS, SPACING, CostPolicy


@dataclass
class LoadedMethods:
    """What a run needs. ``notes`` says what was left out, and why."""

    target: HuggingFaceTarget
    processor: PromptProcessor
    methods: list[Method] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load_methods(options: argparse.Namespace) -> LoadedMethods:
    """Load everything once. The Hugging Face rows get a model object of their own."""
    dtype = DTYPES[options.dtype]
    path = options.model or paths.TARGET
    target, processor = load_target(path, dtype, options.device)
    loaded = LoadedMethods(target, processor)
    if not options.no_hf:
        model = load_model(path, dtype, options.device)
        loaded.methods += [
            transformers_method(HUGGING_FACE, model),
            transformers_method(
                LOOKUP,
                model,
                prompt_lookup_num_tokens=5,
                # The rows of the image repeat too; looked up, they would be drafted.
                suppress_tokens=[model.config.image_token_id],
            ),
        ]
    loaded.methods.append(hivis_method(PLAIN, target))
    for name, given, default, load in _drafters(options, target, processor):
        folder: str | Path | None = given
        if given is None and options.model is None:
            folder = default
            if not default.is_dir():
                loaded.notes.append(f"{name} is left out: there is no {default.name} drafter")
                continue
        if folder is not None:
            loaded.methods.append(drafted_method(name, target, load(folder), options))
    return loaded


def _drafters(
    options: argparse.Namespace, target: HuggingFaceTarget, processor: PromptProcessor
) -> list[tuple[str, str | None, Path, Callable[[str | Path], Drafter]]]:
    """Name, the folder that was given, the bundled model's folder, and what loads a folder."""
    draft_vlm = partial(load_draft_vlm, target=target, processor=processor)
    one_layer = partial(load_one_layer, options)
    eagle = (EAGLE, options.eagle, paths.EAGLE, one_layer)
    hivis = (HIVIS, options.drafter, paths.HIVIS, one_layer)
    if not options.compare:
        return [eagle, hivis]
    return [
        eagle,
        (VISPEC, options.vispec, paths.VISPEC, partial(_load_vispec, options)),
        (SPEC_LLAVA, options.draft_vlm, paths.DRAFT_VLM, draft_vlm),
        hivis,
    ]


def load_one_layer(options: argparse.Namespace, folder: str | Path) -> OneLayerDrafter:
    """A one-layer drafter with the weights and the draft vocabulary that ``options`` name."""
    return load_drafter(folder, weights=options.drafter_weights, head=options.draft_vocab)


def _load_vispec(options: argparse.Namespace, folder: str | Path) -> Drafter:
    drafter = load_one_layer(options, folder)
    if not isinstance(drafter, ViSpecDrafter):
        raise HivisError(f"--vispec {folder}: wanted a ViSpec drafter, got another kind")
    return drafter


def drafted_method(
    name: str,
    target: HuggingFaceTarget,
    drafter: Drafter,
    options: argparse.Namespace,
    make: Callable[[], Policy] | None = None,
    sampled_only: bool = False,
) -> Method:
    """hivis with a drafter.

    Args:
        make: a new policy; by default the one that ``options`` name.
    """
    drafter.bind(target.embedding, target.head)
    make = make or partial(make_policy, options)
    # A cost model measures its times in its first cycles, which are kept out of the figures.
    measures = isinstance(make(), CostPolicy) and not options.quick
    cycles = SPACING * ROUNDS + 1 if measures else 1
    return hivis_method(name, target, drafter, make, cycles, sampled_only)
