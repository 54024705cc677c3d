"""A target and a drafter of scaled real sizes with random weights, for simulated acceptance."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.synthetic.configs import shape_of
from bench.synthetic.cycles import Pair
from bench.synthetic.random_models import drafter_config, random_target, random_tensors
from bench.synthetic.simulated_acceptance import Replay, TreeForm, shaped_drafter
from hivis.core.tree_shape import TreeShape

CPU = torch.device("cpu")
LENGTHS = [3, 0, 6, 1, 1, 5, 2, 4, 0, 6]
SHAPE = TreeShape(24, 6, 4)


def pair_of(
    name: str = "llava-1.5-7b", kind: str = "hivis", lengths: Sequence[int] = LENGTHS
) -> Pair:
    shape = shape_of(name, "tiny")
    target = random_target(shape, torch.float32, CPU)
    config = drafter_config(shape, kind)
    form = TreeForm.of(SHAPE, CPU)
    drafter = shaped_drafter(config, random_tensors(config, torch.float32, CPU), form)
    return Pair(target, drafter, form, Replay(lengths, form))
