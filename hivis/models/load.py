"""Load a target by local folder or hub name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, logging

from hivis.core.hub import resolve_model
from hivis.errors import HivisError, first_line
from hivis.models.families.base import Family
from hivis.models.families.registry import family_of
from hivis.models.processor import PromptProcessor
from hivis.models.supported import check_quantized, read_config
from hivis.models.target import HuggingFaceTarget


def quiet() -> None:
    """Turn off progress bars of transformers, and warnings of the hub, which repeat our errors."""
    logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()


def load_model(
    path: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> PreTrainedModel:
    """The plain Hugging Face model, from safetensors only: a pickle is never opened.

    Raises:
        HivisError: folder or weights missing, unreadable, incomplete or of an unsupported family.
    """
    folder = resolve_model(path)
    model, missing = read_model(folder, dtype)
    refuse_missing(folder, missing)
    # As it was given: a page names the model so, and hivis.wrap looks for its processor there.
    model.config.name_or_path = str(path)
    return cast(PreTrainedModel, model.to(device).eval())


def read_model(
    folder: Path, dtype: torch.dtype, among: Sequence[Family] | None = None, text: Any = None
) -> tuple[Any, list[str]]:
    """A model of a family, by default any, and the parameters that its checkpoint has no weight
    for.

    ``text`` is transformers' class for those that are plain language models.
    """
    _check_weights(folder)
    try:
        config = read_config(folder)
        family_of(config.model_type, among)
        check_quantized(config)
        sees = hasattr(config, "vision_config")
        loader: Any = AutoModelForImageTextToText if sees or text is None else text
        model, report = loader.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except HivisError:
        raise
    except Exception as error:  # transformers and safetensors each raise their own kinds
        raise HivisError(f"model {folder}: cannot be loaded: {first_line(error)}") from error
    return model, sorted(report["missing_keys"])


def refuse_missing(folder: Path, missing: Sequence[str]) -> None:
    """transformers only warns, and fills what is missing with random numbers."""
    if missing:
        raise HivisError(
            f"model {folder}: wanted a weight for every parameter, got none for {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        )


def _check_weights(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise HivisError(f"model {folder}: wanted a config.json in the folder, got none")
    if (folder / ADAPTER_CONFIG_NAME).is_file():  # it would name another model to be loaded
        raise HivisError(f"model {folder}: wanted a whole model, got {ADAPTER_CONFIG_NAME} too")
    _check_index(folder / SAFE_WEIGHTS_INDEX_NAME)
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for p in folder.glob("*.bin")) + sorted(
            p.name for p in folder.glob("*.pt*")
        )
        got = f"only {pickles[0]}, a pickle, which is not opened" if pickles else "none"
        raise HivisError(f"model {folder}: wanted weights in *.safetensors, got {got}")


def _check_index(path: Path) -> None:
    """Parts of a model lie beside their index: not elsewhere, and not in pickles."""
    if not path.is_file():
        return
    try:
        names = set(json.loads(path.read_text())["weight_map"].values())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise HivisError(f"{path}: wanted an index of weights, got: {error!r:.200}") from None
    for name in names:
        if (
            not isinstance(name, str)
            or not name.endswith(".safetensors")
            or Path(name).name != name
        ):
            raise HivisError(f"{path}: wanted *.safetensors files beside it, got {name!r:.200}")


def load_target(
    path: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> tuple[HuggingFaceTarget, PromptProcessor]:
    """Load a VLM and its processor: ``(target, processor)``. See :func:`load_model` for errors."""
    folder = resolve_model(path)
    model = load_model(folder, dtype, device)
    model.config.name_or_path = str(path)
    target = HuggingFaceTarget(model, family_of(model.config.model_type))
    return target, PromptProcessor.load(folder, model)
