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

Tensors that the authors' loaders pass over are ignored here too: ``lm_head.weight``, the
``rotary_emb.inv_freq`` of old versions of transformers, and ``fc.bias`` (or ``img_fc.bias``) beside
``"bias": false``. ``hivis info`` names them.

How a HiViS drafter hides images depends on its target, and the authors' code decides it by the
target: nothing in the checkpoint says so. That of a Qwen target keeps the prompt's positions, and
was trained with the markers around the image hidden with it; the others count the rows that are
left. So :func:`load` wants to be told (the target's family knows).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hivis.drafters import checkpoint
from hivis.drafters.checkpoint import some
from hivis.drafters.config import HiViSConfig, LayerConfig, ViSpecConfig
from hivis.drafters.inspect import CheckpointInfo
from hivis.errors import HivisError

_EMBEDDING = "embed_tokens.weight"
_NEEDED = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "rms_norm_eps",
    "vocab_size",
)


def kind_of(info: CheckpointInfo) -> str | None:
    """``"hivis"``, ``"vispec"`` or ``"eagle"``, by the names of its tensors; ``None``: none."""
    if "type" in info.config or info.is_whole_model:
        return None
    names = info.tensor_names
    if any(name.startswith(("midlayer.", "d2t", "t2d")) for name in names):  # EAGLE-3
        return None
    if "residual" in names:
        return "hivis"
    if "imadpt.q" in names:
        return "vispec"
    halves = any(name.startswith(("imadpt.", "img_fc.")) for name in names)
    return "eagle" if "fc.weight" in names and not halves else None


def ignored_tensors(info: CheckpointInfo) -> list[str]:
    """The tensors of a published checkpoint that are not used, as by its authors' loaders."""
    return sorted(name for name in info.tensor_names if _is_ignored(name, info.config))


def load(
    info: CheckpointInfo, hiding: Mapping[str, Any] | None
) -> tuple[HiViSConfig | ViSpecConfig, dict[str, Tensor]]:
    """Read a published checkpoint, as a config and tensors of our own, on the CPU.

    Args:
        hiding: of a HiViS drafter: how its target's images are hidden, as entries of
            :class:`HiViSConfig`.

    Raises:
        HivisError: a file is missing or corrupt, the config lacks an entry or asks for something
            else than one Llama layer, a tensor is missing, unexpected or of another shape, or it is
            a HiViS drafter and ``hiding`` is not given.
    """
    try:
        sizes = _sizes(info.config)
    except HivisError as error:
        raise HivisError(f"{info.config_file}: {error}") from None
    path, tensors = info.weights_file, dict(info.tensors)
    try:
        config = _config(kind_of(info), sizes, tensors, hiding)
    except HivisError as error:
        raise HivisError(f"{path}: {error}") from None
    _check_embedding(tensors, config, path)
    for name in ignored_tensors(info):
        del tensors[name]
    if info.config.get("bias", True) is False:
        _stand_in_for_biases(tensors, config)
    checkpoint.check_tensors(config, tensors, str(path))
    return config, tensors


def _sizes(raw: Mapping[str, Any]) -> dict[str, Any]:
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


def _config(
    kind: str | None,
    sizes: dict[str, Any],
    tensors: Mapping[str, Tensor],
    hiding: Mapping[str, Any] | None,
) -> HiViSConfig | ViSpecConfig:
    if kind == "vispec":
        query = tensors["imadpt.q"]
        if query.dim() != 3 or not len(query):
            raise HivisError(f"imadpt.q: wanted [Q, H, D], Q at least 1, got {list(query.shape)}")
        return ViSpecConfig(**sizes, queries=len(query))
    if kind == "eagle":
        return HiViSConfig(**sizes, residual_rows=0, rows="all")
    residual = tensors["residual"]
    if residual.dim() != 2 or not len(residual):
        raise HivisError(f"residual: wanted [R, E], R at least 1, got {list(residual.shape)}")
    if hiding is None:
        raise HivisError(
            "hiding: wanted how images of its target are hidden from a published HiViS drafter, "
            "got nothing (hivis.load takes it from the target)"
        )
    return HiViSConfig(**sizes, residual_rows=len(residual), **hiding)


def _is_ignored(name: str, config: Mapping[str, Any]) -> bool:
    if name in (_EMBEDDING, "lm_head.weight") or name.endswith("rotary_emb.inv_freq"):
        return True
    return config.get("bias", True) is False and name in ("fc.bias", "img_fc.bias")


def _check_embedding(tensors: Mapping[str, Tensor], config: LayerConfig, path: Path) -> None:
    """HivisError if the target's table in the checkpoint is of another target."""
    table, wanted = tensors.get(_EMBEDDING), (config.vocab_size, config.hidden_size)
    if table is not None and tuple(table.shape) != wanted:
        raise HivisError(
            f"{path}: {_EMBEDDING}: wanted shape {list(wanted)}, got {list(table.shape)}"
        )


def _stand_in_for_biases(tensors: dict[str, Tensor], config: LayerConfig) -> None:
    """Zeros for the biases of ``fc`` and ``img_fc`` that the config says it does not have."""
    for name in ("fc", "img_fc"):
        if name + ".bias" in config.shapes() and name + ".weight" in tensors:
            weight = tensors[name + ".weight"]
            tensors[name + ".bias"] = weight.new_zeros(weight.shape[:1])
