"""What a model may not be or do, because decoding would then go wrong without an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from hivis.errors import HivisError, shorten

#: Rotary embeddings whose frequencies change as a sequence grows.
_MOVING_ROPE = ("dynamic", "longrope")
#: What transformers hands to an attention function of models whose attention is not the usual one.
_VARIANTS = ("softcap", "s_aux", "sinks", "head_mask", "position_bias")
#: Entries of a config that decide how much is built before any weight is looked at. The limits are
#: far above every model there is, and keep a config from filling all time and memory.
_LIMITS = dict.fromkeys(("num_hidden_layers", "depth"), 1024) | dict.fromkeys(
    (
        "hidden_size", "intermediate_size", "embed_dim", "head_dim", "num_attention_heads",
        "num_key_value_heads", "num_heads", "vocab_size", "image_size", "patch_size",
    ),
    1 << 22,
)  # fmt: skip


def read_config(folder: Path) -> Any:
    """A model's configuration as its class, once its sizes are known to be such.

    Raises:
        HivisError: there is none, a size that cannot be one, or a type that transformers does not
            know. Transformers raises its own kinds, too.
    """
    if not (folder / "config.json").is_file():
        raise HivisError("wanted its config.json, got none")
    written, _ = PreTrainedConfig.get_config_dict(folder)
    # Of what is written: some classes make a list of all layers as soon as they are made.
    check_sizes(written)
    kind = written.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise HivisError(
            f"config.json: model_type: wanted one that transformers knows, got {shorten(kind)}"
        )
    return CONFIG_MAPPING[kind].from_dict(written)


def check_sizes(config: dict[str, Any], where: str = "config.json") -> None:
    """HivisError if a size in a model's configuration, or in a part of it, cannot be one."""
    for name, value in config.items():
        if isinstance(value, dict):
            check_sizes(value, f"{where}: {name}")
        # None leaves it to another entry; a list has one for each part, and is no count.
        elif name in _LIMITS and value is not None and not isinstance(value, list):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not 1 <= value <= _LIMITS[name]:
                shown = repr(value)[:40] if not whole or abs(value) < 1 << 64 else "far more"
                raise HivisError(f"{where}: {name}: wanted 1..{_LIMITS[name]}, got {shown}")


def check_quantized(config: Any) -> None:
    """HivisError if the checkpoint's weights are of a kind that has to be unpacked."""
    quantized = getattr(config, "quantization_config", None)
    if quantized:
        kind = dict(quantized).get("quant_method") if isinstance(quantized, dict) else quantized
        raise HivisError(f"quantization_config: wanted plain weights, got {kind}")


def check_supported(model: PreTrainedModel, text: Any) -> None:
    """HivisError if ``model`` lies on several devices, or if the attention of ``text``, its decoder
    stack, is more than every row looking at all rows before it."""
    devices = sorted({str(tensor.device) for tensor in model.parameters()})
    if len(devices) != 1 or devices[0] == "meta":
        raise HivisError(f"model: wanted all weights on one device, got {', '.join(devices)}")
    config = text.config
    kind = f"text model {config.model_type}"
    if not getattr(text, "_supports_attention_backend", False):
        raise HivisError(f"{kind}: wanted attention by transformers' interface, got its own")
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        raise HivisError(f"{kind}: wanted full attention in every layer, got {sorted(kinds)[0]}")
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True):
        raise HivisError(
            f"{kind}: wanted full attention in every layer, got sliding_window={window}"
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in _MOVING_ROPE:
        raise HivisError(f"{kind}: wanted rotary embeddings that stay as they are, got {rope}")


def check_call(masked: bool, options: dict[str, Any]) -> None:
    """HivisError if a layer asks for another attention than ours.

    Args:
        masked: transformers has made the mask, in which a sliding window is.
        options: the extra keywords of its call.
    """
    for name in (*_VARIANTS, *(() if masked else ("sliding_window",))):
        if options.get(name) is not None:
            raise HivisError(f"attention: wanted a layer without {name}, got one with it")
