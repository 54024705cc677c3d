"""Models and drafters of the headline benchmark, as the methods that are measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.common.generation import HUGGING_FACE
from bench.headline.methods import (
    LOOKUP,
    PLAIN,
    Method,
    hivis_method,
    row_name,
    transformers_method,
)
from bench.headline.options import HEADLINE, compared_methods, flag_of, given_folder, make_policy
from hivis.api.load_drafter import load_any_drafter
from hivis.bundled import paths
from hivis.core.device import DTYPES
from hivis.core.drafter import Drafter
from hivis.core.policy import Policy
from hivis.drafters.inspect import inspect
from hivis.drafters.registry import DrafterMethod, bundled_folder, recognize
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
    for method in compared_methods():
        folder = given_folder(options, method)
        if folder is None and options.model is None and _belongs(method, options.compare):
            folder = bundled_folder(method, paths.WEIGHTS)
            if folder is not None and not Path(folder).is_dir():
                loaded.notes.append(f"{row_name(method.title)} is left out: there is no {folder}")
                continue
        if folder is not None:
            drafter = _load(options, target, processor, method, folder)
            loaded.methods.append(drafted_method(row_name(method.title), target, drafter, options))
    return loaded


def _belongs(method: DrafterMethod, compare: bool) -> bool:
    """Whether its bundled drafter has a row without being asked for."""
    return compare or method.name in HEADLINE


def _load(
    options: argparse.Namespace,
    target: HuggingFaceTarget,
    processor: PromptProcessor,
    method: DrafterMethod,
    folder: str | Path,
) -> Drafter:
    found = recognize(inspect(folder))
    if found is not method:
        raise HivisError(
            f"{flag_of(method)} {folder}: wanted a {method.title} drafter, got a {found.title} one"
        )
    return load_as_asked(options, folder, target, processor, method)


def load_as_asked(
    options: argparse.Namespace,
    folder: str | Path,
    target: HuggingFaceTarget,
    processor: PromptProcessor,
    method: DrafterMethod,
) -> Drafter:
    """A drafter with the weights and the draft vocabulary that ``options`` name, if its method has
    them."""
    more = {}
    if method.quantizable:
        more = {"weights": options.drafter_weights, "draft_vocab": options.draft_vocab}
    return load_any_drafter(folder, target, processor, **more)


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
