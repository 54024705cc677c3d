"""A target and a drafter of scaled real sizes with random weights, for simulated acceptance."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.synthetic.configs import shape_of
from bench.synthetic.cycles import Pair
from bench.synthetic.drafters import random_drafter
from bench.synthetic.random_models import random_target
from bench.synthetic.simulated_acceptance import FixedTree, Replay, fix_trees
from hivis.core.tree_shape import TreeShape

CPU = torch.device("cpu")
LENGTHS = [3, 0, 6, 1, 1, 5, 2, 4, 0, 6]
SHAPE = TreeShape(24, 6, 4)


def pair_of(
    name: str = "llava-1.5-7b", kind: str = "hivis", lengths: Sequence[int] = LENGTHS
) -> Pair:
    shape = shape_of(name, "tiny")
    target = random_target(shape, torch.float32, CPU)
    tree = FixedTree.of(SHAPE, CPU)
    drafter = random_drafter(shape, kind, torch.float32, CPU)
    fix_trees(drafter, tree)
    return Pair(target, drafter, tree, Replay(lengths, tree))
