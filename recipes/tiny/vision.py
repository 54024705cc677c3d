"""What the vision tower is trained with before the language model sees its output."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.tiny.data import IGNORE, LABEL_SIZES


class PatchHeads(nn.Module):
    """The throw-away heads of the vision stage: one linear map per kind of label."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in LABEL_SIZES)

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """features [B,100,E], labels [B,10,10,5] -> loss, accuracy per head over filled places."""
        labels = labels.flatten(1, 2)
        losses, right = [], []
        for i, head in enumerate(self.heads):
            logits, wanted = head(features).float().flatten(0, 1), labels[..., i].flatten()
            losses.append(F.cross_entropy(logits, wanted, ignore_index=IGNORE))
            filled = wanted > 0
            right.append((logits.argmax(-1) == wanted)[filled].float().mean())
        return torch.stack(losses).sum(), torch.stack(right)
