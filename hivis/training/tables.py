"""What a drafter takes from its target: sizes from the config, embedding and head from the weights.

Both are read from the files, so that training a one-layer drafter never loads the target.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hivis.errors import HivisError
from hivis.training.losses import Target


def layer_sizes(target: Path) -> dict[str, Any]:
    """The entries of :class:`hivis.drafters.config.LayerConfig` for a drafter of ``target``.

    Raises:
        HivisError: the config is missing, or says nothing of a text model.
    """
    path = target / "config.json"
    raw = _read_config(path)
    text = raw.get("text_config", raw)
    try:
        heads = text["num_attention_heads"]
        rope = text.get("rope_parameters") or {}
        return {
            "hidden_size": text["hidden_size"],
            "intermediate_size": text["intermediate_size"],
            "num_attention_heads": heads,
            "num_key_value_heads": text.get("num_key_value_heads") or heads,
            "head_dim": text.get("head_dim") or text["hidden_size"] // heads,
            "vocab_size": text["vocab_size"],
            "rope_theta": rope.get("rope_theta") or text.get("rope_theta") or 10000.0,
            "rms_norm_eps": text.get("rms_norm_eps", 1e-5),
        }
    except KeyError as error:
        raise HivisError(f"{path}: wanted {error.args[0]} of the text model, got none") from None


def family_defaults(target: Path, method: str) -> dict[str, Any]:
    """What else a drafter's config has for a target of this family, as published drafters have it.

    Qwen: biases on q, k and v; HiViS hides a picture's two markers with it, and leaves their gap.
    """
    kind = str(_read_config(target / "config.json").get("model_type", ""))
    if not kind.startswith("qwen"):
        return {}
    hides = {"positions": "original", "hide_before": 1, "hide_after": 1}
    return {"attention_bias": True} | (hides if method == "hivis" else {})


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HivisError(f"{path}: wanted the target's config, got {error}") from None


def read_tables(target: Path, device: str) -> Target:
    """The target's embedding and head, straight from its safetensors (tied or not, sharded or not).

    Raises:
        HivisError: no readable safetensors, or no embedding in them.
    """
    found: dict[str, Tensor] = {}
    for path in sorted(target.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():
                    for end in ("embed_tokens.weight", "lm_head.weight"):
                        if name.endswith(end):
                            found[end] = file.get_tensor(name).to(device, torch.float32)
        except (SafetensorError, OSError) as error:
            raise HivisError(f"{path}: wanted a safetensors file, got {error}") from None
    embedding = found.get("embed_tokens.weight")
    if embedding is None:
        raise HivisError(f"target {target}: wanted embed_tokens.weight in *.safetensors, got none")
    return Target(embedding, found.get("lm_head.weight", embedding))
