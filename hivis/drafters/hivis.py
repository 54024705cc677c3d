"""The HiViS drafter (arXiv 2509.23928): one decoder layer that never sees a visual token.

The image reaches it only through the target's hidden states at text rows. Visual rows are
dropped before anything is drafted and positions count the kept rows, so the drafter's prefill,
cache and attention do not grow with the image.

With ``rows="all"`` the same class is EAGLE-2 (arXiv 2406.16858) for a VLM: the prompt then holds
every row, and projected image embeddings where the image is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hivis.core.handoff import DrafterPrompt
from hivis.drafters import checkpoint
from hivis.drafters.checkpoint import MakeWeights
from hivis.drafters.config import HiViSConfig
from hivis.drafters.one_layer import OneLayerDrafter, Weight
from hivis.errors import HivisError


def rows_to_hide(visual: Tensor, config: HiViSConfig) -> Tensor:
    """``[n]`` bool: the ``visual`` rows ``[n]``, and those next to them that go with them."""
    hide = visual.clone()
    for step in range(1, config.hide_before + 1):
        hide[:-step] |= visual[step:]
    for step in range(1, config.hide_after + 1):
        hide[step:] |= visual[:-step]
    return hide


class HiViSDrafter(OneLayerDrafter):
    """A HiViS drafter. The residual vector of a step and ``fc``'s bias become one bias per step."""

    config: HiViSConfig

    def __init__(self, config: HiViSConfig, tensors: dict[str, Tensor]) -> None:
        super().__init__(config, tensors)
        self.config = config
        self.rows = "all" if config.hides_itself else config.rows

    @property
    def method(self) -> str:
        """Its record's name in ``hivis/drafters/registry.py``."""
        return "eagle" if self.config.rows == "all" else "hivis"

    @classmethod
    def load(cls, directory: str | Path) -> HiViSDrafter:
        """Read a checkpoint directory.

        Raises:
            HivisError: see :func:`hivis.drafters.checkpoint.load`.
        """
        return cls(*checkpoint.load(directory, HiViSConfig))

    def save(self, directory: str | Path) -> None:
        """Write a checkpoint directory (without the target's embedding and head)."""
        checkpoint.save(directory, self.config, self.tensors)

    @torch.inference_mode()
    def prefill(self, prompt: DrafterPrompt, token: Tensor, max_rows: int) -> None:
        """Read the prompt's R rows; ``token`` ``[B]`` follows the last of them."""
        embeddings, hidden, positions, gap = self._kept(prompt)
        batch, rows, _ = hidden.shape
        if rows == 0:
            raise HivisError(f"prompt: wanted at least one row of {self.rows!r}, got none")
        if max_rows - gap < rows:
            raise HivisError(
                f"max_rows: wanted at least the {rows + gap} prompt rows, got {max_rows}"
            )
        self._allocate(batch, max_rows - gap, gap)
        first = F.embedding(token, self._embedding).unsqueeze(1)
        following = torch.cat([embeddings[:, 1:].to(first), first], 1)
        self._read(self._join(following, hidden, 0), positions)

    def _kept(self, prompt: DrafterPrompt) -> tuple[Tensor, Tensor, Tensor, int]:
        """Embeddings, hidden states, positions ``[R]`` of the rows to read, and the gap behind."""
        embeddings, hidden, c = prompt.embeddings, prompt.hidden, self.config
        count = torch.arange(hidden.shape[1], device=hidden.device)
        if not c.hides_itself or prompt.visual is None:
            return embeddings, hidden, count, 0
        if not bool((prompt.visual == prompt.visual[:1]).all()):
            raise HivisError("prompt: wanted images at the same rows of every sequence")
        hide = rows_to_hide(prompt.visual[0], c)
        positions = count[~hide]
        rows = len(positions)
        if c.positions == "kept" or rows == 0:
            return embeddings[:, ~hide], hidden[:, ~hide], count[:rows], 0
        gap = int(positions[-1]) + 1 - rows
        return embeddings[:, ~hide], hidden[:, ~hide], positions, gap

    def _fuse_input(self, weight: Weight) -> dict[str, Tensor]:
        fc, bias, e = weight("fc.weight"), weight("fc.bias"), self.config.hidden_size
        if not self.config.residual_rows:
            return {"fc": fc, "step_bias": bias.unsqueeze(0)}
        # concat(embedding, hidden, r_i) W + b = concat(embedding, hidden) W' + (W_r r_i + b)
        return {"fc": fc[:, : 2 * e], "step_bias": weight("residual") @ fc[:, 2 * e :].T + bias}

    def bind(self, embedding: Tensor, head: Tensor) -> None:
        super().bind(embedding, head)
        self._step_bias = list(self._w["step_bias"])

    def _join(self, following: Tensor, hidden: Tensor, step: int) -> Tensor:
        """``fc`` over the next token's embedding, the hidden state and the step's residual."""
        bias = self._step_bias[min(step, len(self._step_bias) - 1)]
        return self._m["fc"](torch.cat([following, hidden], -1), bias)


def random_hivis(
    layer: Mapping[str, Any], hiding: Mapping[str, Any], weights: MakeWeights
) -> HiViSDrafter:
    """An untrained HiViS drafter of these sizes."""
    config = HiViSConfig(**layer, **hiding)
    return HiViSDrafter(config, weights(config))


def random_eagle(
    layer: Mapping[str, Any], hiding: Mapping[str, Any], weights: MakeWeights
) -> HiViSDrafter:
    """An untrained EAGLE-2 drafter of these sizes, which hides nothing."""
    config = HiViSConfig(**layer, rows="all", residual_rows=0)
    return HiViSDrafter(config, weights(config))
