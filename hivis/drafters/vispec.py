"""The ViSpec drafter (arXiv 2509.15235): an image becomes a few rows and one global feature.

A vision adaptor, learned queries and one cross-attention over the projected embeddings of one
image, gives Q vectors. The first Q - 1 enter the decoder layer in the image's place; the last,
the global feature g, is mixed into the hidden state of every row behind the image:
``x = fc([embedding of the next token ; img_fc([hidden state ; g])])``, with g = 0 before the first
image and that of the latest image otherwise, in all drafted and decoded rows too.

Which rows, by the authors' code (``vispec/model/cnets_ours.py``). A row belongs to the token whose
hidden state it holds and is read with the embedding of the token after it. With an image at prompt
rows a..b:

- rows up to a - 2 are read as they are;
- rows a - 1 .. b - 1, whose next token is visual, give way to the Q - 1 vectors, at positions
  b - Q + 1 .. b - 1. So the hidden state of the token right before the image is not read either;
- row b, the image's last, is read: its hidden state, the embedding of the first token behind the
  image, and already the new g.

Positions are those of the prompt, and go on behind it. More than one image works the same way,
which it does not in the authors' code. Three more rules are ours: an image at row 0 is seen whole
(there, its row 0 is lost), positions that would fall before the prompt become 0, and an image that
is shown in tiles with markers between them is one image, without the markers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hivis.core.drafter import PromptRows
from hivis.core.handoff import DrafterPrompt, Span
from hivis.drafters import checkpoint
from hivis.drafters.checkpoint import MakeWeights
from hivis.drafters.config import ViSpecConfig
from hivis.drafters.one_layer import OneLayerDrafter, Weight
from hivis.errors import HivisError


class ViSpecDrafter(OneLayerDrafter):
    """A ViSpec drafter.

    ``img_fc`` goes into ``fc`` and the share of g into a bias when it is bound and when an image
    is read, so drafting costs what it does in EAGLE-2.
    """

    #: Its record's name in ``hivis/drafters/registry.py``.
    method = "vispec"
    # The scores of the adaptor's softmax: up to 13 in published checkpoints, where bfloat16 is
    # coarser than 1e-2.
    in_float32 = frozenset({"look"})
    rows: PromptRows = "all"
    config: ViSpecConfig

    def __init__(self, config: ViSpecConfig, tensors: dict[str, Tensor]) -> None:
        super().__init__(config, tensors)
        self.config = config

    @classmethod
    def load(cls, directory: str | Path) -> ViSpecDrafter:
        """Read a checkpoint directory.

        Raises:
            HivisError: see :func:`hivis.drafters.checkpoint.load`.
        """
        return cls(*checkpoint.load(directory, ViSpecConfig))

    def save(self, directory: str | Path) -> None:
        """Write a checkpoint directory (without the target's embedding and head)."""
        checkpoint.save(directory, self.config, self.tensors)

    @torch.inference_mode()
    def prefill(self, prompt: DrafterPrompt, token: Tensor, max_rows: int) -> None:
        """Read the prompt's P rows; ``token`` ``[B]`` follows the last of them."""
        batch, rows, size = prompt.hidden.shape
        if rows == 0:
            raise HivisError(f"prompt: wanted at least one row of {self.rows!r}, got none")
        if max_rows < rows:
            raise HivisError(f"max_rows: wanted at least the {rows} prompt rows, got {max_rows}")
        first = F.embedding(token, self._embedding).unsqueeze(1)
        embeddings = prompt.embeddings.to(first)
        following = torch.cat([embeddings[:, 1:], first], 1)
        bias = self._bias(first.new_zeros(batch, 1, size))
        parts: list[Tensor] = []
        positions: list[int] = []

        def read(start: int, end: int) -> None:
            if start < end:
                parts.append(self._mix(following[:, start:end], prompt.hidden[:, start:end], bias))
                positions.extend(range(start, end))

        start = 0
        for begin, end in image_spans(prompt):
            read(start, begin - 1)
            image = embeddings[:, begin:end]
            if prompt.visual is not None:  # markers between an image's tiles are not of it
                image = image[:, prompt.visual[0, begin:end]]
            vectors = self._adapt(image)
            parts.append(vectors[:, :-1])
            positions += [max(p, 0) for p in range(end - self.config.queries, end - 1)]
            bias = self._bias(vectors[:, -1:])
            start = end - 1
        read(start, rows)
        x = torch.cat(parts, 1)
        # An image of fewer rows than the adaptor has queries makes the cache longer, not shorter.
        gap = rows - x.shape[1]
        self._allocate(batch, max_rows - gap, gap)
        self.cache.set_entry("bias", bias)
        self._read(x, torch.tensor(positions, device=x.device))

    def _fuse_input(self, weight: Weight) -> dict[str, Tensor]:
        c = self.config
        e, heads, d = c.hidden_size, c.num_attention_heads, c.head_dim
        fc, mix = weight("fc.weight"), weight("img_fc.weight")
        fc_embedding, fc_hidden = fc[:, :e], fc[:, e:]
        keys = weight("imadpt.k_proj.weight").view(heads, d, e)
        fused = {
            # fc([m ; img_fc([h ; g])]) = F_m m + F_h I_h h + (F_h I_g g + F_h b_i + b_f)
            "fc": torch.cat([fc_embedding, fc_hidden @ mix[:, :e]], 1),
            "global": fc_hidden @ mix[:, e:],
            "bias": fc_hidden @ weight("img_fc.bias") + weight("fc.bias"),
            # q . (W_k m + b_k) = (W_k^T q) . m + q . b_k, and the last term is the same at every
            # row, so softmax does not see it.
            "look": torch.einsum("qhd,hde->qhe", weight("imadpt.q"), keys).flatten(0, 1) * d**-0.5,
            "value": weight("imadpt.v_proj.weight").view(heads, d, e),
            "out": weight("imadpt.o_proj.weight"),
        }
        if c.attention_bias:
            fused["value_bias"] = weight("imadpt.v_proj.bias").view(heads, d)
        return fused

    def _bias(self, feature: Tensor) -> Tensor:
        """``[B, 1, E]``: what g = ``feature`` ``[B, 1, E]`` adds to every row."""
        return F.linear(feature, self._w["global"], self._w["bias"])

    def _join(self, following: Tensor, hidden: Tensor, step: int) -> Tensor:
        return self._mix(following, hidden, self.cache.entries["bias"])

    def _mix(self, following: Tensor, hidden: Tensor, bias: Tensor) -> Tensor:
        """``fc`` over the next token's embedding and the hidden state that g was mixed into."""
        return self._m["fc"](torch.cat([following, hidden], -1)) + bias

    def _adapt(self, image: Tensor) -> Tensor:
        """``[B, n, E]`` embeddings of an image -> ``[B, Q, E]``.

        The rows are pooled before they are projected (weights of a head sum to 1, and a projection
        is linear): two products with Q H vectors instead of two with E x E matrices.
        """
        heads = self.config.num_attention_heads
        score = torch.softmax(F.linear(image.float(), self._w["look"]), 1)
        pooled = score.to(image).transpose(1, 2) @ image
        pooled = pooled.unflatten(1, (-1, heads))
        values = torch.einsum("bqhe,hde->bqhd", pooled, self._w["value"])
        if self.config.attention_bias:
            values = values + self._w["value_bias"]
        return F.linear(values.flatten(2), self._w["out"])


def image_spans(prompt: DrafterPrompt) -> list[Span]:
    """Where each image lies, in order; reads ``prompt.visual`` on the host.

    The prompt may say so. If not, a run of visual rows is one image. If the processor's features
    tell of more images than there are runs, some images are adjacent: where all of them have the
    same number of rows, the runs are cut accordingly. Otherwise each run stays one image.

    Raises:
        HivisError: the sequences of a batch differ in where their images are.
    """
    if prompt.spans is not None:
        return list(prompt.spans)
    if prompt.visual is None:
        return []
    visual: list[list[bool]] = prompt.visual.tolist()
    if any(row != visual[0] for row in visual):
        raise HivisError("prompt: wanted images at the same rows of every sequence, got others")
    runs: list[Span] = []
    for row, seen in enumerate(visual[0]):
        if seen and runs and runs[-1][1] == row:
            runs[-1] = (runs[-1][0], row + 1)
        elif seen:
            runs.append((row, row + 1))
    count, total = _count(prompt.features), sum(visual[0])
    if count <= len(runs) or total % count:
        return runs
    size = total // count
    if any((end - begin) % size for begin, end in runs):
        return runs
    return [(at, at + size) for begin, end in runs for at in range(begin, end, size)]


def _count(features: Mapping[str, Tensor]) -> int:
    """How many images the processor made features of (0: it does not say)."""
    for name in ("image_grid_thw", "image_sizes"):
        if name in features:
            return len(features[name])
    pixels = features.get("pixel_values")
    return len(pixels) if pixels is not None and pixels.dim() >= 4 else 0


def random_vispec(
    layer: Mapping[str, Any], hiding: Mapping[str, Any], weights: MakeWeights
) -> ViSpecDrafter:
    """An untrained ViSpec drafter of these sizes, with as many key and value heads as queries."""
    config = ViSpecConfig(**layer)
    config = replace(config, num_key_value_heads=config.num_attention_heads)
    return ViSpecDrafter(config, weights(config))
