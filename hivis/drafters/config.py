"""What a drafter's ``config.json`` says, and the tensors that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hivis.core.drafter import PromptRows
from hivis.errors import HivisError

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class LayerConfig:
    """Sizes of the one decoder layer that HiViS, EAGLE-2 and ViSpec drafters have in common.

    Attributes:
        attention_bias: whether the q, k and v projections have a bias (targets such as Qwen).
    """

    KIND: ClassVar[str] = ""
    WHOLE_NUMBERS: ClassVar[tuple[str, ...]] = (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
    )

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False

    def __post_init__(self) -> None:
        for name in self.WHOLE_NUMBERS:
            self._check_whole(name, 1)
        for name in ("rope_theta", "rms_norm_eps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise HivisError(f"{name}: wanted a positive number, got {value!r}")
        if not isinstance(self.attention_bias, bool):
            raise HivisError(f"attention_bias: wanted true or false, got {self.attention_bias!r}")
        if self.head_dim % 8 or self.head_dim > 256:
            raise HivisError(f"head_dim: wanted a multiple of 8 up to 256, got {self.head_dim}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise HivisError(
                f"num_attention_heads: wanted a multiple of num_key_value_heads "
                f"({self.num_key_value_heads}), got {self.num_attention_heads}"
            )

    def _check_whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise HivisError(f"{name}: wanted a whole number >= {least}, got {value!r}")

    def shapes(self) -> Shapes:
        """The tensors of a checkpoint, by name; here those of the layer."""
        e, i, d = self.hidden_size, self.intermediate_size, self.head_dim
        queries, keys = self.num_attention_heads * d, self.num_key_value_heads * d
        layer = "layers.0."
        shapes: Shapes = {
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


@dataclass(frozen=True)
class HiViSConfig(LayerConfig):
    """A HiViS drafter, or with ``rows="all"`` an EAGLE-2 one: the layer and ``fc`` before it.

    Attributes:
        residual_rows: how many drafting steps have a learned vector of their own; with 0 there is
            none and ``fc`` takes two inputs, as in EAGLE-2.
        rows: which prompt rows it reads, ``"text"`` (HiViS) or ``"all"`` (EAGLE-2 with images).
        positions: of hidden images, ``"kept"`` counts only the rows that are read, ``"original"``
            leaves a gap where the image was.
        hide_before: how many rows before an image are hidden with it (its opening marker).
        hide_after: how many rows after it.
    """

    KIND: ClassVar[str] = "hivis"

    residual_rows: int = 3
    rows: PromptRows = "text"
    positions: Literal["kept", "original"] = "kept"
    hide_before: int = 0
    hide_after: int = 0
    type: str = "hivis"

    def __post_init__(self) -> None:
        if self.type != self.KIND:
            raise HivisError(f"drafter type: wanted {self.KIND!r}, got {self.type!r}")
        if self.rows not in ("text", "all"):
            raise HivisError(f"rows: wanted 'text' or 'all', got {self.rows!r}")
        if self.positions not in ("kept", "original"):
            raise HivisError(f"positions: wanted 'kept' or 'original', got {self.positions!r}")
        super().__post_init__()
        for name in ("residual_rows", "hide_before", "hide_after"):
            self._check_whole(name, 0)
        if self.rows == "all" and (self.hide_before or self.hide_after):
            raise HivisError("rows: wanted 'text' to hide rows next to an image, got 'all'")

    @property
    def hides_itself(self) -> bool:
        """Whether it has to see where the images were, so as to hide them itself."""
        leaves_gaps = self.positions == "original" or self.hide_before or self.hide_after
        return self.rows == "text" and bool(leaves_gaps)

    def shapes(self) -> Shapes:
        e = self.hidden_size
        shapes: Shapes = {"fc.weight": (e, 3 * e if self.residual_rows else 2 * e), "fc.bias": (e,)}
        if self.residual_rows:
            shapes["residual"] = (self.residual_rows, e)
        return shapes | super().shapes()


@dataclass(frozen=True)
class ViSpecConfig(LayerConfig):
    """A ViSpec drafter: the layer, ``fc``, ``img_fc`` and the vision adaptor ``imadpt``.

    Attributes:
        queries: Q, learned queries of the adaptor. An image becomes Q - 1 rows and one global
            feature.
    """

    KIND: ClassVar[str] = "vispec"

    queries: int = 2
    type: str = "vispec"

    def __post_init__(self) -> None:
        if self.type != self.KIND:
            raise HivisError(f"drafter type: wanted {self.KIND!r}, got {self.type!r}")
        super().__post_init__()
        self._check_whole("queries", 1)

    def shapes(self) -> Shapes:
        e, heads = self.hidden_size, self.num_attention_heads
        inner = heads * self.head_dim
        shapes: Shapes = {
            "fc.weight": (e, 2 * e),
            "fc.bias": (e,),
            "img_fc.weight": (e, 2 * e),
            "img_fc.bias": (e,),
            "imadpt.q": (self.queries, heads, self.head_dim),
            # The adaptor has as many key and value heads as queries, whatever the layer has.
            "imadpt.k_proj.weight": (inner, e),
            "imadpt.v_proj.weight": (inner, e),
            "imadpt.o_proj.weight": (e, inner),
        }
        if self.attention_bias:
            shapes["imadpt.k_proj.bias"] = shapes["imadpt.v_proj.bias"] = (inner,)
        return shapes | super().shapes()
