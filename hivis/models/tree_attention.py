"""Tree attention inside Hugging Face models, through transformers' own attention interfaces.

``register()`` adds an attention implementation named ``"hivis"``. A model that is set to it calls
:func:`attention` in every layer. A verify pass hands the tree to the model's forward as the extra
keyword ``tree_rows``, which transformers passes on to the attention function untouched, a prefill
its ``chunk``; without either the call is the first chunk of a prefill, or someone else's use of the
model, and goes to SDPA as usual.

A pass need not hold the whole tree: a draft model runs one level at a time, and the levels above
are in the cache already. Its nodes are then the last of the tree's rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hivis import ops
from hivis.core.tree import WORD_BITS
from hivis.models.prefill_attention import PrefillChunk
from hivis.models.supported import check_call

NAME = "hivis"


@dataclass(frozen=True)
class TreeRows:
    """What attention needs of a tree of which this pass runs the last rows.

    Attributes:
        kv_len: ``[B]`` int32, cache rows before the tree.
        ancestors: ``[B, N, W]`` int64, W = ceil(N / 64); without a bit for the rows above.
        above: tree rows that earlier passes have written; this one holds the other N - above.
    """

    kv_len: Tensor
    ancestors: Tensor
    above: int = 0

    @classmethod
    def behind(cls, above: int, kv_len: Tensor, words: Tensor) -> TreeRows:
        """K nodes behind ``above`` rows of their tree; ``words`` is ``[B, K, W]``, W any wider."""
        spare = words.shape[2] - -(-(above + words.shape[1]) // WORD_BITS)
        if above or spare:
            words = F.pad(words, (0, -spare, above, 0))
        return cls(kv_len, words, above)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    tree_rows: TreeRows | None = None,
    chunk: PrefillChunk | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention function: ``query [B, H, N, D]`` in, ``[B, N, H, D]`` out."""
    check_call(attention_mask is not None, kwargs)
    if chunk is not None:
        return chunk.attend(query, key, value, scaling), None
    if tree_rows is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    query, above = query.transpose(1, 2), tree_rows.above
    if above:
        # The op takes as many queries as there are tree rows, and skips those without a bit.
        query = F.pad(query, (0, 0, 0, 0, above, 0))
    out = ops.tree_attention(query, key, value, tree_rows.kv_len, tree_rows.ancestors, scaling)
    return out[:, above:], None


def mask(*args: Any, kv_length: int, **kwargs: Any) -> Tensor | None:
    """No mask for our cache (it reports a length of 0); SDPA's own for everyone else."""
    if kv_length == 0:
        return None
    return sdpa_mask(*args, kv_length=kv_length, **kwargs)


def register() -> None:
    """Make ``set_attn_implementation("hivis")`` known to transformers. Safe to call again."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)
