"""Drafters as their authors published them: HiViS, ViSpec and EAGLE-2 checkpoints.

Where they are: ``Irisssme/HiViS-*`` and ``Irisssme/EAGLE-2-*``, ``JLKang/ViSpec-*``,
``yuhuili/EAGLE-*`` (not ``EAGLE3-*``). Each is a ``config.json`` in the manner of a Llama model's
and a ``model.safetensors`` or ``pytorch_model.bin``; what it is shows in the names of its tensors:

- HiViS: ``residual`` ``[R, E]`` and ``fc.weight`` ``[E, 3 E]``. A row of the target takes residual
  0, level i of a tree takes residual i, and levels beyond the last row take the last.
- ViSpec: ``imadpt.*`` (the adaptor), ``img_fc.*``, and ``fc.weight`` ``[E, 2 E]``. The adaptor has
  as many key and value heads as queries, and a bias where the layer's k and v have one.
- EAGLE-2: ``fc.weight`` ``[E, 2 E]`` and no other of these.

All have ``layers.0.*`` without an ``input_layernorm``, with biases on q, k and v if the config says
``qkv_bias``; ``fc.bias`` unless it says ``"bias": false``; no final norm and no head. Most also
hold ``embed_tokens.weight``, a frozen copy of the target's table: it is left out, for the target's
own is used. bfloat16 or float16; a drafter takes over the target's dtype.

HiViS drafters of Qwen targets keep the prompt's positions, and were trained with the marker before
the image, the marker behind it and one more row hidden with it (``ge_data_qwen.py`` of their
authors). The others count the rows that are left.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hivis.drafters import checkpoint
from hivis.drafters.checkpoint import some
from hivis.drafters.config import HiViSConfig, LayerConfig, ViSpecConfig
from hivis.errors import HivisError, first_line

PICKLE_FILE = "pytorch_model.bin"
_EMBEDDING = "embed_tokens.weight"
_NEEDED = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "rms_norm_eps",
    "vocab_size",
)


def load(folder: Path, config_file: Path) -> tuple[HiViSConfig | ViSpecConfig, dict[str, Tensor]]:
    """Read a published checkpoint, as a config and tensors of our own, on the CPU.

    Raises:
        HivisError: a file is missing or corrupt, the config lacks an entry or asks for something
            else than one Llama layer, or a tensor is missing, unexpected or of another shape.
    """
    raw = checkpoint.read_json(config_file)
    try:
        sizes = _sizes(raw)
    except HivisError as error:
        raise HivisError(f"{config_file}: {error}") from None
    path, tensors = _read_weights(folder)
    try:
        config = _recognize(raw, sizes, tensors)
    except HivisError as error:
        raise HivisError(f"{path}: {error}") from None
    _drop_embedding(tensors, config, path)
    if raw.get("bias", True) is False:
        _stand_in_for_biases(tensors, config, path)
    checkpoint.check_tensors(config, tensors, str(path))
    return config, tensors


def _sizes(raw: dict[str, Any]) -> dict[str, Any]:
    """The entries of a published config as those of :class:`LayerConfig`.

    Where an entry is absent, the authors' config class stands for it: as many key and value heads
    as queries, rotary base 10000, no attention bias, SiLU.
    """
    missing = [name for name in _NEEDED if raw.get(name) is None]
    if missing:
        raise HivisError(f"wanted {some(missing)} of a published drafter, got no such entry")
    for name, wanted in (("num_hidden_layers", 1), ("hidden_act", "silu"), ("rope_scaling", None)):
        if raw.get(name, wanted) != wanted:
            raise HivisError(f"{name}: wanted {wanted!r}, got {raw[name]!r}")
    hidden, heads = raw["hidden_size"], raw["num_attention_heads"]
    for name in ("hidden_size", "num_attention_heads"):
        if not isinstance(raw[name], int) or raw[name] < 1:
            raise HivisError(f"{name}: wanted a whole number >= 1, got {raw[name]!r}")
    if hidden % heads:
        raise HivisError(f"hidden_size: wanted a multiple of {heads} heads, got {hidden}")
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": raw["intermediate_size"],
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "vocab_size": raw["vocab_size"],
        "rms_norm_eps": raw["rms_norm_eps"],
    }
    names = {
        "num_key_value_heads": "num_key_value_heads",
        "rope_theta": "rope_theta",
        "qkv_bias": "attention_bias",
    }
    sizes |= {ours: raw[name] for name, ours in names.items() if raw.get(name) is not None}
    HiViSConfig(**sizes)  # whatever it is, the layer's sizes must hold
    return sizes


def _recognize(
    raw: dict[str, Any], sizes: dict[str, Any], tensors: dict[str, Tensor]
) -> HiViSConfig | ViSpecConfig:
    """What kind of drafter these tensors are, by their names."""
    eagle_3 = sorted(name for name in tensors if name.startswith(("midlayer.", "d2t", "t2d")))
    if eagle_3:
        raise HivisError(f"wanted a HiViS, ViSpec or EAGLE-2 drafter, got EAGLE-3 ({eagle_3[0]})")
    if "residual" in tensors:
        residual = tensors["residual"]
        if residual.dim() != 2 or not len(residual):
            raise HivisError(f"residual: wanted [R, E], R at least 1, got {list(residual.shape)}")
        qwen: dict[str, Any] = {"positions": "original", "hide_before": 1, "hide_after": 2}
        extra = qwen if str(raw.get("model_type", "")).startswith("qwen") else {}
        return HiViSConfig(**sizes, residual_rows=len(residual), **extra)
    if "imadpt.q" in tensors:
        query = tensors["imadpt.q"]
        if query.dim() != 3 or not len(query):
            raise HivisError(f"imadpt.q: wanted [Q, H, D], Q at least 1, got {list(query.shape)}")
        return ViSpecConfig(**sizes, queries=len(query))
    if "fc.weight" in tensors and not any(n.startswith(("imadpt.", "img_fc.")) for n in tensors):
        return HiViSConfig(**sizes, residual_rows=0, rows="all")
    raise HivisError(
        f"wanted a HiViS, ViSpec or EAGLE-2 drafter, got {some(sorted(tensors)) or 'no tensor'}"
    )


def _drop_embedding(tensors: dict[str, Tensor], config: LayerConfig, path: Path) -> None:
    table = tensors.pop(_EMBEDDING, None)
    wanted = (config.vocab_size, config.hidden_size)
    if table is not None and tuple(table.shape) != wanted:
        raise HivisError(
            f"{path}: {_EMBEDDING}: wanted shape {list(wanted)}, got {list(table.shape)}"
        )


def _stand_in_for_biases(tensors: dict[str, Tensor], config: LayerConfig, path: Path) -> None:
    """Zeros for the biases of ``fc`` and ``img_fc`` that the config says it does not have."""
    for name in ("fc", "img_fc"):
        if name + ".bias" in tensors:
            raise HivisError(f"{path}: wanted no {name}.bias ('bias' is false), got one")
        if name + ".bias" in config.shapes() and name + ".weight" in tensors:
            weight = tensors[name + ".weight"]
            tensors[name + ".bias"] = weight.new_zeros(weight.shape[:1])


def _read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    path = folder / checkpoint.WEIGHTS_FILE
    if path.is_file():
        return path, checkpoint.read_safetensors(path)
    path = folder / PICKLE_FILE
    if not path.is_file():
        raise HivisError(
            f"{folder}: wanted {checkpoint.WEIGHTS_FILE} or {PICKLE_FILE}, got neither"
        )
    try:
        # weights_only: tensors and plain containers are read; code in a pickle is never run.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message is long, advice on how to run the code included.
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), "no tensors")
        raise HivisError(
            f"{path}: wanted a pickle of tensors alone, got {reason.strip()[:120]}"
        ) from None
    except Exception as error:  # torch, zipfile and pickle each raise their own kinds
        raise HivisError(
            f"{path}: wanted a whole file of tensors, got {first_line(error)}"
        ) from None
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise HivisError(f"{path}: wanted tensors by name, got {type(loaded).__name__} of others")
    return path, dict(loaded)


def download(name: str, revision: str | None = None) -> Path:
    """The local folder of a hub checkpoint; only what a drafter needs is fetched.

    Raises:
        HivisError: no such name or revision, or no network and no copy in the hub's cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    files = [checkpoint.WEIGHTS_FILE, PICKLE_FILE]
    folder = Path()
    for weights in files:  # the pickle is many MB of the same, and fetched only if it is all there
        try:
            folder = Path(
                snapshot_download(
                    name, revision=revision, allow_patterns=[checkpoint.CONFIG_FILE, weights]
                )
            )
        except LocalEntryNotFoundError:
            raise HivisError(
                f"drafter {name}: wanted a folder or a hub name, got no such folder, and the hub "
                f"cannot be reached (no copy in its cache either)"
            ) from None
        except Exception as error:  # the hub and its transport raise kinds of their own
            raise HivisError(
                f"drafter {name}: wanted a folder or a hub name, got no such folder, and from "
                f"the hub: {first_line(error)}"
            ) from None
        if (folder / weights).is_file():
            break
    return folder
