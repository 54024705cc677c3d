"""Draft models from a checkpoint: where the layers of targets and drafters meet."""

from __future__ import annotations

from pathlib import Path

from hivis.drafters.draft_vlm import DraftVLM
from hivis.targets.draft_model import load_draft_model
from hivis.targets.hugging_face import HuggingFaceTarget
from hivis.targets.load import PromptProcessor


def load_draft_vlm(
    path: str | Path, target: HuggingFaceTarget, processor: PromptProcessor | None = None, *,
    share_vision: bool = True,
) -> DraftVLM:  # fmt: skip
    """A drafter for ``target`` around the small VLM or language model at ``path``.

    See :func:`hivis.targets.draft_model.load_draft_model` for the arguments and errors.
    """
    return DraftVLM(load_draft_model(path, target, processor, share_vision=share_vision))
