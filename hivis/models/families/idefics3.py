"""Idefics3 and SmolVLM: an image in tiles, each between markers that say where it belongs.

Rows of an image are those of its tiles, line by line, and last those of the whole. The markers are
tokens like any other: drafters that leave out images still read them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hivis.models.families.base import Family

#: Tiles that pass through the tower at once. Small models show large images: all of theirs could
#: take more memory than their weights.
_TILES = 4


class Idefics3(Family):
    """Vision tower, connector, and a Llama."""

    model_types = ("idefics3", "smolvlm")

    def language_model(self, model: PreTrainedModel) -> PreTrainedModel:
        return model.model.text_model

    def look(self, model: PreTrainedModel, features: Mapping[str, Tensor]) -> Tensor | None:
        pixels = features.get("pixel_values")
        if pixels is None:
            return None
        mask = features.get("pixel_attention_mask")
        parts = pixels.split(_TILES, 1)
        masks = [None] * len(parts) if mask is None else mask.split(_TILES, 1)
        look = model.model.get_image_features
        seen = [look(*part).pooler_output for part in zip(parts, masks, strict=True)]
        return torch.cat(seen).flatten(0, 1)

    def image_rows(
        self, model: PreTrainedModel, tokens: Tensor, features: Mapping[str, Tensor]
    ) -> list[int]:
        """An image ends with the tile whose marker is that of the very last one: the whole."""
        ids: list[int] = tokens[0].tolist()
        tile = model.config.image_token_id
        runs: list[tuple[int, int]] = []  # the marker before a tile, and the tile's rows
        for row, token in enumerate(ids):
            if token == tile and row and ids[row - 1] == tile:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            elif token == tile:
                runs.append((ids[row - 1] if row else -1, 1))
        images, open_rows = [], 0
        for marker, rows in runs:
            open_rows += rows
            if marker == runs[-1][0]:
                images.append(open_rows)
                open_rows = 0
        return images
