"""The store of captured graphs, what captures them, and the stand-in that tests use for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import hivis
from hivis.core.kv_cache import row_multiple_of
from hivis.engine.cuda_graphs import MOST, CudaCapturer, Graphs, capturer_for, cycles_in_flight
from hivis.errors import HivisError
from tests.helpers.captured_graphs import CpuCapturer
from tests.helpers.fake_graphs import FakeCuda
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


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    fake = FakeCuda(monkeypatch)
    yield fake
    assert fake.current == "main" and fake.device == 0
    assert not fake.capturing, "the allocator waits for the end of a capture"


def capturer(place: int = 0) -> CudaCapturer:
    return CudaCapturer(torch.device("cuda", place))


def test_each_gpu_captures_on_a_stream_of_its_own(cuda: FakeCuda) -> None:
    seen: list[Any] = []
    for place in (0, 1, 0):
        capturer(place).capture(lambda: seen.append(cuda.current))
    assert seen == ["stream 1 of 0", "stream 2 of 1", "stream 1 of 0"]


def test_a_capture_that_fails_gives_the_stream_back(cuda: FakeCuda) -> None:
    """And says why, not that something was wrong before."""

    def refused() -> None:
        cuda.refuse("no reads here")

    def wrong() -> None:
        raise ValueError("no such thing")

    captures = capturer()
    with pytest.raises(RuntimeError, match="^no reads here$"):
        captures.capture(refused)
    with pytest.raises(ValueError, match="^no such thing$"):
        captures.capture(wrong)
    captures.capture(cuda.product)
    assert not cuda.held


def test_captures_go_on_after_all_graphs_are_gone(cuda: FakeCuda) -> None:
    """As after a batch's caches have moved. Graphs that live at a time share a pool."""
    captures = capturer()
    kept = [captures.capture(cuda.product) for _ in range(3)]
    assert len(cuda.pools) == 1
    kept.clear()
    assert not cuda.pools
    for _ in range(3):
        captures.capture(cuda.product)


def test_no_memory_is_left_behind(cuda: FakeCuda) -> None:
    """Every cache has a capturer of its own; what cuBLAS keeps is made once, outside of a graph."""
    for _ in range(5):
        capturer().capture(cuda.product)
    assert not cuda.held and not cuda.pools and cuda.workspaces == {"stream 1 of 0"}


def test_a_model_is_loaded_with_or_without() -> None:
    with pytest.raises(HivisError, match="^graphs: wanted a CUDA device to replay them, got cpu"):
        hivis.load(device="cpu", graphs=True)
    with pytest.raises(HivisError, match="^graphs: wanted a CUDA device"):
        hivis.wrap(random_target().model, processor=object(), graphs=True)
