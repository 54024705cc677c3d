"""A trainable ViSpec drafter (arXiv 2509.15235): the vision adaptor, ``img_fc`` and the layer.

Tensors have the names of the checkpoints (``drafters/checkpoint.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hivis.drafters.config import ViSpecConfig
from hivis.training.learners.one_layer_model import OneLayerModel


@dataclass(frozen=True)
class AdaptedImages:
    """The adapted images of a batch, distributed over its rows.

    Attributes:
        vectors: ``[B, n, E]`` the vectors of the compressed rows.
        compressed: ``[B, n, 1]`` bool, the compressed rows.
        mixed: ``[B, n, E]`` the term that the global feature adds to the hidden state; 0 before
            the first image.
    """

    vectors: Tensor
    compressed: Tensor
    mixed: Tensor


class Adaptor(nn.Module):
    """Learned queries, and one cross-attention over the embeddings of one image.

    The rows are pooled before they are projected, as at inference: two products with Q H vectors
    instead of two with E x E matrices. A bias of the keys would shift all scores of a query by the
    same amount, so it is not used and not trained.
    """

    def __init__(self, c: ViSpecConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = c.num_attention_heads, c.head_dim
        inner = self.heads * self.head_dim
        self.q = nn.Parameter(torch.randn(c.queries, self.heads, c.head_dim) * c.head_dim**-0.5)
        self.k_proj = nn.Linear(c.hidden_size, inner, bias=c.attention_bias)
        self.v_proj = nn.Linear(c.hidden_size, inner, bias=c.attention_bias)
        self.o_proj = nn.Linear(inner, c.hidden_size, bias=False)

    def forward(self, images: Tensor, shown: Tensor) -> Tensor:
        """``[K, Q, E]`` from embeddings ``[K, m, E]`` and their mask ``shown`` ``[K, m]`` bool."""
        keys = self.k_proj.weight.unflatten(0, (self.heads, self.head_dim))
        # As at inference: autocast would round scores to bfloat16 before the softmax.
        with torch.autocast(images.device.type, enabled=False):
            look = torch.einsum("qhd,hde->qhe", self.q, keys).flatten(0, 1) * self.head_dim**-0.5
            score = F.linear(images.float(), look)
        score = score.masked_fill(~shown.unsqueeze(2), float("-inf"))
        pooled = torch.softmax(score, 1).transpose(1, 2) @ images
        values = self.v_proj.weight.unflatten(0, (self.heads, self.head_dim))
        out = torch.einsum("kqhe,hde->kqhd", pooled.unflatten(1, (-1, self.heads)), values)
        if self.v_proj.bias is not None:
            out = out + self.v_proj.bias.unflatten(0, (self.heads, self.head_dim))
        return self.o_proj(out.flatten(2)).float()


class ViSpecModel(OneLayerModel):
    """``fc``, ``img_fc`` and the adaptor before the layer."""

    config: ViSpecConfig

    def __init__(self, config: ViSpecConfig) -> None:
        super().__init__(config)
        e = config.hidden_size
        self.fc = nn.Linear(2 * e, e)
        self.img_fc = nn.Linear(2 * e, e)
        # At first the global feature changes nothing.
        nn.init.eye_(self.img_fc.weight)
        nn.init.zeros_(self.img_fc.bias)
        self.imadpt = Adaptor(config)

    def see(self, images: Tensor, shown: Tensor, slot: Tensor, feature: Tensor) -> AdaptedImages:
        """Adapt K images and distribute them over the rows.

        Args:
            images: ``[K, m, E]`` embeddings, padded.
            shown: ``[K, m]`` bool, false at the padding.
            slot: ``[B, n]`` int64: 0, or 1 + the index of the row's vector among all K (Q - 1).
            feature: ``[B, n]`` int64: 0, or 1 + the index of the image whose global feature the
                row gets.
        """
        e = self.config.hidden_size
        vectors = self.imadpt(images, shown)
        none = vectors.new_zeros(1, e)
        mixed = F.linear(vectors[:, -1], self.img_fc.weight[:, e:]).float()
        table = torch.cat([none, vectors[:, :-1].flatten(0, 1)])
        return AdaptedImages(
            F.embedding(slot, table),
            (slot > 0).unsqueeze(2),
            F.embedding(feature, torch.cat([none, mixed])),
        )

    def join(
        self, following: Tensor, hidden: Tensor, start: int, step: int, seen: AdaptedImages | None
    ) -> Tensor:
        """``[B, rows, E]``, the input of the layer at the rows from ``start`` on.

        ``following`` and ``hidden`` are as in :meth:`HiViSModel.join`. Without ``seen`` there is no
        image (g = 0), and ``img_fc`` is not trained.
        """
        e, weight, bias = self.config.hidden_size, self.img_fc.weight, self.img_fc.bias
        if seen is None:
            hidden = F.linear(hidden, weight[:, :e].detach(), bias.detach())
        else:
            hidden = F.linear(hidden, weight[:, :e], bias).float() + seen.mixed[:, start:]
        # fp32 from here on, so that autocast does not round the residual stream to bf16.
        x = self.fc(torch.cat([following, hidden.to(following.dtype)], -1)).float()
        if seen is None or step:
            # No row reads the input that a later pass has at a compressed row.
            return x
        return torch.where(seen.compressed, seen.vectors, x)
