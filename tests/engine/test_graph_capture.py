"""The store of captured graphs, what captures them, and the stand-in that tests use for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import hivis
from hivis.core.kv_cache import row_multiple_of
from hivis.engine.cuda_graphs import MOST, CudaCapturer, Graphs, capturer_for, cycles_in_flight
from hivis.errors import HivisError
from tests.helpers.captured_graphs import CpuCapturer
from tests.helpers.small_llava import random_target


def test_the_oldest_captures_are_forgotten() -> None:
    capturer, cell = CpuCapturer(), torch.zeros(1)
    graphs = Graphs(capturer)
    for name in range(2 * MOST):
        for _ in range(3):
            graphs.run(name, lambda: cell.add_(1))
    assert capturer.captured == 2 * MOST and float(cell) == 6 * MOST
    graphs.run(2 * MOST - 1, lambda: cell.add_(1))
    assert capturer.captured == 2 * MOST
    graphs.run(0, lambda: cell.add_(1))
    graphs.run(0, lambda: cell.add_(1))
    assert capturer.captured == 2 * MOST + 1


def test_the_emulation_is_hostile() -> None:
    """It notices a value from the host, a read, and memory that is not where it was."""
    capturer = CpuCapturer()
    for work in (
        lambda: torch.ones(2).sum().item(),
        lambda: torch.tensor([1.0]) + 1,
        lambda: torch.ones(3).nonzero(),
        lambda: torch.ones(3)[torch.ones(3) > 0],
    ):
        with pytest.raises(RuntimeError):
            capturer.capture(work)
    state = {"x": torch.ones(1)}
    first = state["x"]

    def moves() -> Tensor:
        state["x"] = state["x"] + 1
        return state["x"]

    result, replay = capturer.capture(moves)
    assert result.isnan().all()
    for _ in range(3):
        replay()
    assert float(result) == 2  # and not 4: it starts again from where it was captured
    del first
    with pytest.raises(MemoryError, match="a capture reads .1. that were given back"):
        replay()


@pytest.mark.parametrize("wanted", [None, False])
def test_there_are_no_graphs_on_a_cpu(wanted: bool | None) -> None:
    assert capturer_for(torch.device("cpu"), wanted) is None
    with pytest.raises(HivisError, match="^graphs: wanted a CUDA device"):
        capturer_for(torch.device("cpu"), True)


def test_what_a_gpu_gets() -> None:
    """Graphs unless they are not wanted, memory that fits the next text, no waiting."""
    device = torch.device("cuda")
    assert isinstance(capturer_for(device, None), CudaCapturer)
    assert isinstance(capturer_for(device, True), CudaCapturer)
    assert capturer_for(device, False) is None
    assert cycles_in_flight(device) == 1 and cycles_in_flight(torch.device("cpu")) == 0
    assert row_multiple_of(device) > 1 == row_multiple_of(torch.device("cpu"))


class FakeCuda:
    """As much of ``torch.cuda`` as torch's own ``graph`` asks for. Streams are strings."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.current, self.device = "main", 0
        self.fails = False
        outer = self

        class On:
            def __init__(self, place: str, value: Any) -> None:
                self.place, self.value = place, value

            def __enter__(self) -> None:
                self.old = getattr(outer, self.place)
                setattr(outer, self.place, self.value)

            def __exit__(self, *error: object) -> None:
                setattr(outer, self.place, self.old)

        class FakeGraph:
            def capture_begin(self, *args: Any, **kwargs: Any) -> None: ...

            def capture_end(self) -> None:
                if outer.fails:
                    raise RuntimeError("operation failed due to a previous error during capture")

            def pool(self) -> str:
                return "pool"

            def replay(self) -> None: ...

        fakes = {
            "CUDAGraph": FakeGraph,
            "stream": lambda stream: On("current", stream),
            "Stream": lambda *args: f"side of {outer.device}",
            "device": lambda device: On("device", device.index),
            "current_stream": lambda device: outer.current,
            "set_stream": lambda stream: setattr(outer, "current", stream),
            "synchronize": lambda *args: None,
            "empty_cache": lambda: None,
        }
        for name, fake in fakes.items():
            patch.setattr(torch.cuda, name, fake)
        patch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
        patch.setattr(torch.cuda.graph, "default_capture_stream", None)


def test_each_gpu_captures_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, seen = FakeCuda(monkeypatch), []
    for place in (0, 1):
        CudaCapturer(torch.device("cuda", place)).capture(lambda: seen.append(cuda.current))
    assert seen == ["side of 0", "side of 1"] and cuda.current == "main"


def test_a_capture_that_fails_gives_the_stream_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says why, not that something was wrong before."""
    cuda = FakeCuda(monkeypatch)
    cuda.fails = True

    def work() -> None:
        raise RuntimeError("no reads here")

    with pytest.raises(RuntimeError, match="^no reads here$"):
        CudaCapturer(torch.device("cuda", 0)).capture(work)
    assert cuda.current == "main"


def test_a_model_is_loaded_with_or_without() -> None:
    with pytest.raises(HivisError, match="^graphs: wanted a CUDA device to replay them, got cpu"):
        hivis.load(device="cpu", graphs=True)
    with pytest.raises(HivisError, match="^graphs: wanted a CUDA device"):
        hivis.wrap(random_target().model, processor=object(), graphs=True)
