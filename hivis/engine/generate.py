"""Generating one sequence, speculatively or plainly: plain decoding has no drafter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hivis.core.sampling import SamplingParams
from hivis.core.target import Inputs
from hivis.engine.engine import Engine
from hivis.engine.results import Generation, SequenceProgress
from hivis.engine.running_batch import RunningBatch
from hivis.errors import HivisError


def generate(engine: Engine, inputs: Inputs, params: SamplingParams | None = None) -> Generation:
    """Generate a whole sequence. See :class:`Stream` for the arguments."""
    stream = Stream(engine, inputs, params)
    for _ in stream:
        pass
    return stream.result


@dataclass
class Stream:
    """Generates one sequence; iterate to get the new tokens of each cycle as they are accepted.

    The tokens are those of plain decoding on the same seed, whatever the drafter and the trees
    (``docs/lossless.md``). After the last ones, :attr:`result` holds the whole sequence and its
    statistics. A stream may be left at any time; target and drafter can be used again, which ends
    this one.

    Args:
        engine: what it is generated with.
        inputs: one prompt.
        params: how tokens are drawn and when to stop; greedy by default.
        until: is shown every token in turn, and may end the sequence there by returning true.
        traced: keep every cycle as it was in the statistics (more device values are read).

    Raises:
        HivisError: the sequence would not fit the model's positions, the drafter was made for
            another target, the logits hold a NaN, or the target has begun another sequence
            meanwhile.
    """

    engine: Engine
    inputs: Inputs
    params: SamplingParams | None = None
    until: Callable[[int], bool] | None = None
    traced: bool = False
    _result: Generation | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.params = self.params or SamplingParams()
        self.engine.check_context(self.inputs, self.params)

    @property
    def result(self) -> Generation:
        """The finished sequence; only after the stream has been read to its end."""
        if self._result is None:
            raise HivisError("result: wanted a stream read to its end, got one still running")
        return self._result

    def __iter__(self) -> Iterator[list[int]]:
        assert self.params is not None
        progress = SequenceProgress(self.params, self.engine.target.eos_token_ids, self.until)
        running = RunningBatch(self.engine, traced=self.traced)
        new = progress.begin(running.add(self.inputs, self.params, progress.ends))
        while True:
            if new:
                yield new
            progress.check()
            if progress.finished:
                break
            (step,) = running.cycle()
            new = progress.add(step)
        self._result = progress.result(running.clock.totals())
