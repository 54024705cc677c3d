"""The engine: a target, what drafts for it, and how, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from hivis.core.drafter import Drafter
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs, Target
from hivis.errors import HivisError
from hivis.policies.cost import default_policy


@dataclass(frozen=True)
class Engine:
    """All that sequences are generated with, whatever their prompts and settings are.

    It holds no state of a sequence: that lies in the caches of target and drafter. So engines may
    share a target, but only one sequence, or one running batch, at a time is in its cache.

    Attributes:
        target: the model whose output is reproduced.
        drafter: proposes trees; ``None`` decodes plainly, one token a pass.
        policy: chooses the size and depth of the trees, one of ``hivis/policies/``. By default the
            cost model, which begins with a fixed size and goes on to what pays most for its time
            (``docs/policies.md``).
        graphs: whether cycles are captured and replayed as CUDA graphs; by default where there is
            CUDA. Cycles of a policy that looks at the growing tree cannot be.
    """

    target: Target
    drafter: Drafter | None = None
    policy: Policy = field(default_factory=default_policy)
    graphs: bool | None = None

    @property
    def device(self) -> torch.device:
        return self.target.embedding.device

    def check_context(self, inputs: Inputs, params: SamplingParams) -> None:
        """HivisError if prompt and new tokens exceed the target's positions."""
        if inputs.length + params.max_new_tokens > self.target.max_positions:
            raise HivisError(
                f"context: wanted at most {self.target.max_positions} positions, got "
                f"{inputs.length} of the prompt + {params.max_new_tokens} new tokens"
            )
