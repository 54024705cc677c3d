"""Draft models from a checkpoint: where the layers of targets and drafters meet."""

from __future__ import annotations

from pathlib import Path

from hivis.core.drafter import Drafter
from hivis.drafters import checkpoint
from hivis.drafters.draft_vlm import DraftVLM
from hivis.drafters.load import folder_of, load_drafter
from hivis.drafters.published import PICKLE_FILE
from hivis.errors import HivisError
from hivis.models.draft_model import load_draft_model
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


def load_any_drafter(
    path: str | Path,
    target: HuggingFaceTarget,
    processor: PromptProcessor | None = None,
    *,
    weights: str = "full",
    head: int | str | Path | None = None,
) -> Drafter:
    """Whatever drafter is at ``path``, ready to be used with ``target``.

    A drafter of ours says in its config of what ``type`` it is, a published one is known by the
    names of its tensors, and what is left is a small VLM or language model.

    Args:
        path: a folder or hub name.
        target: whose texts it shall draft.
        processor: the target's, to compare the tokenizer of a small model with.
        weights: how quantized, see :func:`hivis.drafters.load.load_drafter`.
        head: how short, likewise.

    Raises:
        HivisError: there is nothing at ``path``, it is damaged, or made for another target; or
            a small model, which is run as it is, is to be quantized or short.
    """
    folder = folder_of(path)
    drafter: Drafter
    if _is_whole_model(folder):
        if weights != "full" or head is not None:
            raise HivisError(
                f"drafter: wanted a HiViS, EAGLE-2 or ViSpec one for quantized weights or a short "
                f"head, got the small model at {path}"
            )
        drafter = load_draft_vlm(path, target, processor)
    else:
        drafter = load_drafter(folder, weights=weights, head=head)
    drafter.bind(target.embedding, target.head)
    return drafter


def _is_whole_model(folder: Path) -> bool:
    """Whether a Hugging Face model is in ``folder``, and not only the layer of a drafter."""
    config = checkpoint.read_json(folder / checkpoint.CONFIG_FILE)
    if "type" in config or "model_type" not in config:
        return False
    weights = folder / checkpoint.WEIGHTS_FILE
    if weights.is_file():
        names = checkpoint.tensor_names(weights)
        # Published drafters have such a config too, but their one layer is not in a "model".
        return not any(name.startswith(("fc.", "layers.", "midlayer.")) for name in names)
    pickled = (folder / PICKLE_FILE).is_file()
    return not pickled or (folder / (checkpoint.WEIGHTS_FILE + ".index.json")).is_file()
