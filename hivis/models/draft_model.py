"""Hugging Face models that draft: small VLMs, or plain language models of the same tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hivis.core.handoff import DrafterPrompt
from hivis.core.hub import resolve_model
from hivis.core.target import Inputs
from hivis.errors import HivisError, first_line
from hivis.models.decoder import HuggingFaceDecoder
from hivis.models.families.base import Family
from hivis.models.families.registry import families, family_of
from hivis.models.families.text_model import TextModel
from hivis.models.load import read_model, refuse_missing
from hivis.models.processor import PromptProcessor
from hivis.models.target import HuggingFaceTarget, only_last

TOWER = "model.vision_tower."


class HuggingFaceDraft(HuggingFaceDecoder):
    """A loaded Hugging Face model as a drafter's draft model.

    A VLM reads every prompt row and looks at the image with its own tower, or takes what the
    target's has seen if the two share it (``shares_vision``). A :class:`TextModel` reads the text
    rows, and its positions count these.

    Args:
        vocab_size: logits to give; ids past the model's own, which a sequence may hold but the
            model does not know, are given -inf and never drafted. By default the model's own.
    """

    rows: Literal["text", "all"]

    def __init__(
        self,
        model: PreTrainedModel,
        family: Family,
        *,
        shares_vision: bool = False,
        vocab_size: int | None = None,
    ) -> None:
        super().__init__(model, family)
        self.rows = "text" if isinstance(family, TextModel) else "all"
        self.shares_vision = shares_vision
        self._own_ids = self.head.shape[0]
        self.vocab_size = max(self._own_ids, vocab_size or 0)

    @torch.inference_mode()
    def prefill(self, prompt: DrafterPrompt, token: Tensor, capacity: int) -> Tensor:
        """Read the prompt's rows and ``token`` ``[B]``: ``[B, V]`` logits after it."""
        if prompt.tokens is None:
            raise HivisError("prompt: wanted its tokens for the draft model, got none")
        self._forget(capacity)
        inputs = Inputs(self._ids(prompt.tokens), dict(prompt.features))
        if self.shares_vision:
            seen = None if prompt.seen is None else prompt.seen.to(self.dtype)
        else:
            seen = self.family.look(self.model, inputs.features)
        embeddings = self.family.embed(self.model, inputs, seen)
        last = self._embed(self._ids(token)).unsqueeze(1)
        positions = self.family.positions(self.model, inputs)
        # A prompt of images alone leaves a language model no row at all.
        behind = (F.pad(positions, (1, 0), value=-1).amax() + 1).expand(*positions.shape[:-1], 1)
        positions = torch.cat([positions, behind], -1)
        embeddings = torch.cat([embeddings, last], 1)
        wanted = only_last(embeddings.shape[1])
        return self.logits(self._read(embeddings, capacity, positions, wanted)[:, -1])

    @torch.inference_mode()
    def extend(self, tokens: Tensor, depths: Tensor, words: Tensor, above: int = 0) -> Tensor:
        """``[B, K, V]`` logits after K tree nodes, see :meth:`HuggingFaceDecoder._run`."""
        return self.logits(self._run(self._ids(tokens), depths, words, above))

    def _ids(self, tokens: Tensor) -> Tensor:
        known = self._own_ids == self.vocab_size
        return tokens if known else tokens.clamp(max=self._own_ids - 1)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., V]``, -inf at ids that the model does not know."""
        logits = super().logits(hidden)
        unknown = self.vocab_size - self._own_ids
        return F.pad(logits, (0, unknown), value=float("-inf")) if unknown else logits


def load_draft_model(
    path: str | Path,
    target: HuggingFaceTarget,
    processor: PromptProcessor | None = None,
    *,
    share_vision: bool = True,
    dtype: torch.dtype | None = None,
) -> HuggingFaceDraft:
    """Load a draft model for ``target``, on its device.

    Args:
        path: local folder or hub name, of a supported VLM family or of a Llama language model.
        target: the model that it drafts for.
        processor: the target's. With it the two tokenizers are compared, and a draft model that
            lacks the ids that the target has added on top of a common tokenizer (an image token,
            padding) is taken too. Without it only the number of ids is checked, and by ``bind``.
        share_vision: let a draft VLM use the target's own vision tower if both have the same
            configuration, and the same weights or none in the draft model's checkpoint. The
            image then passes through the tower once.
        dtype: of its weights, the target's by default.

    Raises:
        HivisError: as :func:`hivis.models.load.load_model`; or the tokenizers, image tokens or
            vision towers do not go together.
    """
    folder = resolve_model(path, "draft model")
    among = (*families(), TextModel())
    with _quiet_about_missing():
        model, missing = read_model(folder, dtype or target.dtype, among, text=AutoModelForCausalLM)
    family = family_of(model.config.model_type, among)
    if not isinstance(family, (TextModel, type(target.family))):
        raise HivisError(
            f"draft model {folder}: wanted one of the target's kind, "
            f"{target.model.config.model_type}, or a language model, got {model.config.model_type}"
        )
    vocab_size = None
    if processor is not None:
        _compare_tokenizers(folder, processor)
        vocab_size = target.head.shape[0]
    towerless = [name for name in missing if name.startswith(TOWER)]
    share_vision = share_vision and family.shares_tower
    if share_vision and towerless:
        missing = [name for name in missing if not name.startswith(TOWER)]
    refuse_missing(folder, missing)
    model = cast(PreTrainedModel, model.to(target.device))
    shares = False
    if not isinstance(family, TextModel):
        _check_image_token(folder, model, target.model)
        if share_vision:
            shares = _share_tower(folder, model, target.model, bool(towerless))
    return HuggingFaceDraft(model, family, shares_vision=shares, vocab_size=vocab_size)


@contextmanager
def _quiet_about_missing() -> Iterator[None]:
    """No table of missing weights on stderr: a tower that is left out is no fault, and for any
    other weight there will be an error."""

    def passes(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "MISSING" not in message or "UNEXPECTED" in message

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)


def _share_tower(folder: Path, draft: Any, target: Any, towerless: bool) -> bool:
    """Give ``draft`` the target's vision tower, if it is the same or draft's checkpoint has none.

    Returns:
        Whether the two see the same: also the layers that their projectors read must agree.
    """
    same = _vision_of(draft) == _vision_of(target)
    if towerless and not same:
        raise HivisError(
            f"draft model {folder}: wanted a vision tower, or a configuration for the target's, "
            "got neither"
        )
    ours, theirs = draft.model.vision_tower, target.model.vision_tower
    if same and not towerless:
        weights = theirs.state_dict()
        same = all(
            torch.equal(part.to(weights[name]), weights[name])
            for name, part in ours.state_dict().items()
        )
    if same:
        draft.model.vision_tower = theirs
    return same and all(
        getattr(draft.config, name) == getattr(target.config, name)
        for name in ("vision_feature_layer", "vision_feature_select_strategy")
    )


def _vision_of(model: Any) -> dict[str, Any]:
    """What the vision tower's configuration says of its architecture."""
    bookkeeping = {"dtype", "architectures", "transformers_version", "_name_or_path"}
    found = model.config.vision_config.to_dict()
    return {
        name: value
        for name, value in found.items()
        if name not in bookkeeping and not name.startswith("_")
    }


def _check_image_token(folder: Path, draft: PreTrainedModel, target: PreTrainedModel) -> None:
    wanted, got = target.config.image_token_id, draft.config.image_token_id
    if wanted != got:
        raise HivisError(f"draft model {folder}: wanted the image token {wanted}, got {got}")


def _compare_tokenizers(folder: Path, processor: PromptProcessor) -> None:
    """HivisError unless every id of the draft model's tokenizer means the same to the target's."""
    try:
        drafts = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
    except Exception as error:  # transformers and tokenizers each raise their own kinds
        raise HivisError(
            f"draft model {folder}: wanted a tokenizer to compare with the target's, got: "
            f"{first_line(error)}"
        ) from error
    pieces = {index: piece for piece, index in processor.processor.tokenizer.get_vocab().items()}
    for piece, index in sorted(drafts.items(), key=lambda item: item[1]):
        if pieces.get(index) != piece:
            raise HivisError(
                f"draft model {folder}: wanted the target's tokenizer, in which {index} is "
                f"{pieces.get(index)!r}, got one in which it is {piece!r}"
            )
