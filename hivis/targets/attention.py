"""Tree attention inside Hugging Face models, through transformers' own attention interfaces.

``register()`` adds an attention implementation named ``"hivis"``. A model that is set to it calls
:func:`attention` in every layer. A verify pass hands the tree to the model's forward as the extra
keyword ``tree_rows``, which transformers passes on to the attention function untouched; without
it the call is a prefill, or someone else's use of the model, and goes to SDPA as usual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hivis import ops

NAME = "hivis"


@dataclass(frozen=True)
class TreeRows:
    """What attention needs of a tree: ``kv_len`` ``[B]`` and ``ancestors`` ``[B, N, W]``."""

    kv_len: Tensor
    ancestors: Tensor


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    *, scaling: float, tree_rows: TreeRows | None = None, **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """transformers' attention function: ``query [B, H, N, D]`` in, ``[B, N, H, D]`` out."""
    if tree_rows is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    out = ops.tree_attention(
        query.transpose(1, 2), key, value, tree_rows.kv_len, tree_rows.ancestors, scaling
    )
    return out, None


def mask(*args: Any, kv_length: int, **kwargs: Any) -> Tensor | None:
    """No mask for our cache (it reports a length of 0); SDPA's own for everyone else."""
    if kv_length == 0:
        return None
    return sdpa_mask(*args, kv_length=kv_length, **kwargs)


def register() -> None:
    """Make ``set_attn_implementation("hivis")`` known to transformers. Safe to call again."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)
