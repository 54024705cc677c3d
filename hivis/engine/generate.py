"""Generating one text, by speculation or plainly: plain decoding is the same with no drafter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hivis.core.drafter import Drafter
from hivis.core.policy import Policy
from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs, Target
from hivis.engine.results import Generation, SequenceProgress
from hivis.engine.running_batch import RunningBatch, check_context
from hivis.errors import HivisError
from hivis.policies.cost import default_policy


def generate(
    target: Target,
    inputs: Inputs,
    params: SamplingParams | None = None,
    drafter: Drafter | None = None,
    policy: Policy | None = None,
) -> Generation:
    """Generate a whole text. See :class:`Stream` for the arguments."""
    stream = Stream(target, inputs, params, drafter, policy)
    for _ in stream:
        pass
    return stream.result


@dataclass
class Stream:
    """Generates one text; iterate to get the new tokens, cycle by cycle, as they are accepted.

    The tokens are those of plain decoding on the same seed, whatever the drafter and the tree
    (``docs/lossless.md``). After the last ones, :attr:`result` holds the whole text and its
    statistics. A stream may be left at any time; target and drafter can be used again, which ends
    this one.

    Args:
        target: the loaded model.
        inputs: one prompt.
        params: how tokens are drawn and when to stop; greedy by default.
        drafter: proposes trees; ``None`` decodes plainly, one token a pass.
        policy: chooses the size and depth of the trees, one of ``hivis/policies/``. By default the
            cost model, which begins with a fixed size and goes on to what pays most for its time
            (``docs/policies.md``).
        until: is shown every token of the text in turn, and may end it there by saying true.
        traced: keep every cycle as it was in the statistics (more device values are read).
        graphs: whether cycles are replayed as CUDA graphs; by default where there is CUDA.

    Raises:
        HivisError: the text would not fit the model's positions, the drafter was made for another
            target, the logits hold a NaN, or the target has begun another text meanwhile.
    """

    target: Target
    inputs: Inputs
    params: SamplingParams | None = None
    drafter: Drafter | None = None
    policy: Policy | None = None
    until: Callable[[int], bool] | None = None
    traced: bool = False
    graphs: bool | None = None
    _result: Generation | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.params = self.params or SamplingParams()
        self.policy = self.policy or default_policy()
        check_context(self.target, self.inputs, self.params)

    @property
    def result(self) -> Generation:
        """The finished text; only after the stream has been read to its end."""
        if self._result is None:
            raise HivisError("result: wanted a stream read to its end, got one still running")
        return self._result

    def __iter__(self) -> Iterator[list[int]]:
        assert self.params is not None and self.policy is not None
        text = SequenceProgress(self.params, self.target.eos_token_ids, self.until)
        loop = RunningBatch(
            self.target, self.drafter, self.policy, traced=self.traced, graphs=self.graphs
        )
        new = text.begin(loop.add(self.inputs, self.params, text.ends))
        while True:
            if new:
                yield new
            text.check()
            if text.finished:
                break
            (step,) = loop.cycle()
            new = text.add(step)
        self._result = text.result(loop.clock.totals())
