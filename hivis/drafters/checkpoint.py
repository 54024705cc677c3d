"""Drafter checkpoints on disk: a directory with ``config.json`` and ``model.safetensors``.

The tensors carry the names of the published HiViS drafters. The target's embedding and head are
not among them: a drafter shares those of the target it runs with.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hivis.drafters.base import PromptRows
from hivis.errors import HivisError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_PICKLES = ("pytorch_model.bin", "model.bin", "model.pt", "model.pth")


@dataclass(frozen=True)
class HiViSConfig:
    """Sizes of a HiViS drafter: one decoder layer and the ``fc`` in front of it.

    Attributes:
        residual_rows: R, how many drafting steps have a learned vector of their own.
        rows: which prompt rows it reads, ``"text"`` (HiViS) or ``"all"`` (EAGLE-2 with pictures).
        attention_bias: whether the q, k and v projections have a bias (targets such as Qwen).
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    residual_rows: int = 3
    rows: PromptRows = "text"
    attention_bias: bool = False
    type: str = "hivis"

    def __post_init__(self) -> None:
        if self.type != "hivis":
            raise HivisError(f"drafter type: wanted 'hivis', got {self.type!r}")
        if self.rows not in ("text", "all"):
            raise HivisError(f"rows: wanted 'text' or 'all', got {self.rows!r}")
        for name in (
            "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
            "head_dim", "vocab_size", "residual_rows",
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise HivisError(f"{name}: wanted a whole number >= 1, got {value!r}")
        for name in ("rope_theta", "rms_norm_eps"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not value > 0:
                raise HivisError(f"{name}: wanted a positive number, got {value!r}")
        if self.head_dim % 8 or self.head_dim > 256:
            raise HivisError(f"head_dim: wanted a multiple of 8 up to 256, got {self.head_dim}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise HivisError(
                f"num_attention_heads: wanted a multiple of num_key_value_heads "
                f"({self.num_key_value_heads}), got {self.num_attention_heads}"
            )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of a checkpoint, by name."""
        e, i, d = self.hidden_size, self.intermediate_size, self.head_dim
        queries, keys = self.num_attention_heads * d, self.num_key_value_heads * d
        layer = "layers.0."
        shapes: dict[str, tuple[int, ...]] = {
            "fc.weight": (e, 3 * e),
            "fc.bias": (e,),
            "residual": (self.residual_rows, e),
            layer + "self_attn.q_proj.weight": (queries, e),
            layer + "self_attn.k_proj.weight": (keys, e),
            layer + "self_attn.v_proj.weight": (keys, e),
            layer + "self_attn.o_proj.weight": (e, queries),
            layer + "post_attention_layernorm.weight": (e,),
            layer + "mlp.gate_proj.weight": (i, e),
            layer + "mlp.up_proj.weight": (i, e),
            layer + "mlp.down_proj.weight": (e, i),
        }
        if self.attention_bias:
            shapes[layer + "self_attn.q_proj.bias"] = (queries,)
            shapes[layer + "self_attn.k_proj.bias"] = (keys,)
            shapes[layer + "self_attn.v_proj.bias"] = (keys,)
        return shapes


def check_tensors(config: HiViSConfig, tensors: dict[str, Tensor], where: str) -> None:
    """Names and shapes must be exactly those of ``config``.

    Raises:
        HivisError: a tensor is missing, unexpected, or of another shape.
    """
    wanted = config.shapes()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing:
        raise HivisError(f"{where}: wanted {_some(missing)}, got no such tensor")
    if extra:
        raise HivisError(f"{where}: wanted only the tensors of a drafter, got {_some(extra)} too")
    for name, shape in wanted.items():
        got = tuple(tensors[name].shape)
        if got != shape:
            raise HivisError(f"{where}: {name}: wanted shape {list(shape)}, got {list(got)}")
        if not tensors[name].is_floating_point():
            raise HivisError(f"{where}: {name}: wanted floats, got {tensors[name].dtype}")


def save(directory: str | Path, config: HiViSConfig, tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint; the directory is made if it is not there."""
    check_tensors(config, tensors, "drafter weights")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensors[name].detach().cpu().contiguous() for name in config.shapes()}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=2) + "\n")


def load(directory: str | Path) -> tuple[HiViSConfig, dict[str, Tensor]]:
    """Read a checkpoint, on the CPU and in the dtype it was saved in.

    Raises:
        HivisError: a file is missing or corrupt, or not a HiViS drafter of consistent sizes.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise HivisError(f"drafter: wanted a directory with {CONFIG_FILE}, got {folder}")
    config = _read_config(folder / CONFIG_FILE)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickle = next((name for name in _PICKLES if (folder / name).is_file()), None)
        got = f"{pickle}, a pickle, which is never loaded" if pickle else "no such file"
        raise HivisError(f"{path}: wanted drafter weights as safetensors, got {got}")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise HivisError(f"{path}: wanted a safetensors file, got {reason}") from None
    check_tensors(config, tensors, str(path))
    return config, tensors


def _read_config(path: Path) -> HiViSConfig:
    if not path.is_file():
        raise HivisError(f"{path}: wanted a drafter's config, got no such file")
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HivisError(f"{path}: wanted JSON, got {error}") from None
    if not isinstance(raw, dict):
        raise HivisError(f"{path}: wanted a JSON object, got {type(raw).__name__}")
    if raw.get("type") != "hivis":
        raise HivisError(f"{path}: type: wanted 'hivis', got {raw.get('type')!r}")
    known = {field.name: field for field in fields(HiViSConfig)}
    unknown = sorted(raw.keys() - known.keys())
    if unknown:
        raise HivisError(f"{path}: wanted only known entries, got {_some(unknown)} too")
    needed = sorted(
        name for name in ("hidden_size", "intermediate_size", "num_attention_heads",
                          "num_key_value_heads", "head_dim", "vocab_size") if name not in raw
    )  # fmt: skip
    if needed:
        raise HivisError(f"{path}: wanted {_some(needed)}, got no such entry")
    try:
        return HiViSConfig(**raw)
    except HivisError as error:
        raise HivisError(f"{path}: {error}") from None


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def random_tensors(config: HiViSConfig, seed: int, scale: float = 0.02) -> dict[str, Tensor]:
    """Normal weights, unit norm gains, zero biases: a drafter before training."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in config.shapes().items():
        if name.endswith("layernorm.weight"):
            tensors[name] = torch.ones(shape)
        elif name.endswith(".bias"):
            tensors[name] = torch.zeros(shape)
        else:
            tensors[name] = torch.randn(shape, generator=generator) * scale
    return tensors
