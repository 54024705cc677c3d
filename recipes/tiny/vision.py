"""The heads with which the vision tower is trained before the language model."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.tiny.data import IGNORE, LABEL_SIZES


class PatchHeads(nn.Module):
    """The heads of the vision stage, one linear map per kind of label; they are not kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in LABEL_SIZES)

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and each head's accuracy on filled places, of features [B,100,E].

        `labels` is [B,10,10,5] int64.
        """
        labels = labels.flatten(1, 2)
        losses, right = [], []
        for i, head in enumerate(self.heads):
            logits, wanted = head(features).float().flatten(0, 1), labels[..., i].flatten()
            losses.append(F.cross_entropy(logits, wanted, ignore_index=IGNORE))
            filled = wanted > 0
            right.append((logits.argmax(-1) == wanted)[filled].float().mean())
        return torch.stack(losses).sum(), torch.stack(right)
