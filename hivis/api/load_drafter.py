"""Any drafter from a checkpoint: where the layers of targets and drafters meet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivis.core.drafter import Drafter
from hivis.core.policy import Policy
from hivis.drafters.draft_vlm import DraftVLM
from hivis.drafters.draft_vocab import read_draft_vocab
from hivis.drafters.inspect import inspect
from hivis.drafters.load import load_checkpoint
from hivis.drafters.quantize import format_of
from hivis.drafters.registry import LoadRequest, quantizable_titles
from hivis.errors import HivisError
from hivis.models.draft_model import load_draft_model
from hivis.models.drafter_sizes import sizes_of
from hivis.models.processor import PromptProcessor
from hivis.models.target import HuggingFaceTarget


def load_draft_vlm(
    path: str | Path,
    target: HuggingFaceTarget,
    processor: PromptProcessor | None = None,
    *,
    share_vision: bool = True,
) -> DraftVLM:
    """A drafter for ``target`` around the small VLM or language model at ``path``.

    See :func:`hivis.models.draft_model.load_draft_model` for the arguments and errors.
    """
    return DraftVLM(load_draft_model(path, target, processor, share_vision=share_vision))


def load_whole_model(request: LoadRequest) -> DraftVLM:
    """The same, as the record of its method asks for it."""
    if not isinstance(request.target, HuggingFaceTarget):
        file = request.info.weights_file  # an error of its own, if there is none at all
        raise HivisError(f"{file}: wanted a target to load a small model for, got none")
    return load_draft_vlm(request.info.folder, request.target, request.processor)


def load_any_drafter(
    path: str | Path,
    target: HuggingFaceTarget,
    processor: PromptProcessor | None = None,
    *,
    weights: str = "full",
    draft_vocab: int | str | Path | None = None,
    config: str | Path | None = None,
) -> Drafter:
    """Whatever drafter is at ``path``, ready to be used with ``target``.

    A drafter of ours says in its config of what ``type`` it is, a published one is known by the
    names of its tensors, and what is left is a small VLM or language model
    (``hivis/drafters/registry.py``).

    Args:
        path: a folder or hub name.
        target: whose output it shall draft.
        processor: the target's, to compare the tokenizer of a small model with.
        weights, draft_vocab: see :func:`hivis.drafters.load.load_drafter`.
        config: the ``config.json`` of a checkpoint that comes without one.

    Raises:
        HivisError: there is nothing at ``path``, it is damaged, or made for another target; or
            a small model, which is run as it is, is to be quantized or to have a draft vocabulary
            or another config.
    """
    hiding = sizes_of(target.model.config).published_hiding
    request = LoadRequest(inspect(path, config=config), target, processor, hiding)
    drafter = load_checkpoint(request, weights, draft_vocab)
    drafter.bind(target.embedding, target.head)
    return drafter


@dataclass(frozen=True)
class DrafterChoice:
    """The drafter that a user asks for, and how it shall be: see :func:`hivis.load`.

    Raises:
        HivisError: what can be known to be wrong before anything is loaded.
    """

    drafter: str | Path | Drafter | None
    weights: str = "full"
    vocab: int | str | Path | None = None
    config: str | Path | None = None

    def __post_init__(self) -> None:
        format_of(self.weights)
        vocab = self.vocab
        number = isinstance(vocab, int) and not isinstance(vocab, bool) and vocab > 0
        if vocab is not None and not number and not isinstance(vocab, (str, Path)):
            raise HivisError(
                f"draft vocabulary: wanted a number of tokens or a file, got {vocab!r:.60}"
            )
        config = self.config
        if config is not None and not isinstance(config, (str, Path)):
            raise HivisError(f"drafter_config: wanted a file, got {config!r:.60}")
        if self.is_none and self._changes:
            raise HivisError(
                "drafter: wanted one for quantized weights or a draft vocabulary, got none"
            )
        if config is not None and not isinstance(self.drafter, (str, Path)):
            got = "none" if self.drafter is None else type(self.drafter).__name__
            raise HivisError(f"drafter: wanted a path or a name with drafter_config, got {got}")

    @property
    def is_none(self) -> bool:
        """Whether decoding is to be plain."""
        return self.drafter is None or self.drafter == "none"

    @property
    def _changes(self) -> bool:
        return self.weights != "full" or self.vocab is not None

    def load(
        self, target: HuggingFaceTarget, processor: PromptProcessor, policy: Policy
    ) -> Drafter | None:
        """It, bound to ``target``, and fit for the policy's trees; ``None``: decode plainly."""
        if self.is_none:
            return None
        drafter = self._bound(target, processor)
        ids, most = getattr(drafter, "draft_vocab", None), getattr(policy, "top_k", 1)
        if ids is not None and len(ids) < most:
            raise HivisError(
                f"draft vocabulary: wanted at least {most} tokens, as many as a node of the "
                f"policy's trees has children, got {len(ids)}"
            )
        return drafter

    def _bound(self, target: HuggingFaceTarget, processor: PromptProcessor) -> Drafter:
        drafter: Any = self.drafter
        if isinstance(drafter, (str, Path)):
            return load_any_drafter(
                drafter,
                target,
                processor,
                weights=self.weights,
                draft_vocab=self.vocab,
                config=self.config,
            )
        if not callable(getattr(drafter, "bind", None)):
            raise HivisError(f"drafter: wanted a path, a name or a drafter, got {drafter!r:.60}")
        if self._changes:
            quantize = getattr(drafter, "quantize", None)
            if quantize is None or isinstance(self.vocab, int):
                raise HivisError(
                    f"drafter: wanted a {quantizable_titles()} one (by its folder, for a number "
                    "of its frequent tokens) for quantized weights or a draft vocabulary, "
                    f"got {type(drafter).__name__}"
                )
            quantize(
                self.weights, None if self.vocab is None else read_draft_vocab(Path(self.vocab))
            )
        drafter.bind(target.embedding, target.head)
        return drafter
