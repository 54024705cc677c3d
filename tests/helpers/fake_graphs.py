"""As much of ``torch.cuda`` as capturing asks for, with the rules of torch 2.11's allocator.

Streams are strings, and nothing is computed. Three rules of the real one, which a capture that is
made in another way than here would break:

- a pool that some graph used and none does any more must not be named again while it holds memory;
- the first product on a stream makes a workspace that is kept for ever, inside a capture in the
  graph's pool;
- a capture in which CUDA refused something ends with an error, before the allocator is told.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import pytest
import torch

from hivis.engine import cuda_graphs


class FakeCuda:
    """Stands in for ``torch.cuda`` as long as ``patch`` does.

    Attributes:
        current, device: what is current.
        capturing: pools to which the allocator gives what is allocated.
        pools: how many graphs use each.
        held: pools that hold a workspace.
        workspaces: streams that have one.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.current, self.device = "main", 0
        self.capturing: list[Any] = []
        self.pools: Counter[Any] = Counter()
        self.held: set[Any] = set()
        self.workspaces: set[str] = set()
        self._refused = False
        self._streams = self._handles = 0
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
            def capture_begin(self, pool: Any = None, **kwargs: Any) -> None:
                self._pool = outer._handle() if pool is None else pool
                if self._pool in outer.held and not outer.pools[self._pool]:
                    raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED")
                outer.pools[self._pool] += 1
                outer.capturing.append(self._pool)

            def capture_end(self) -> None:
                if outer._refused:
                    outer._refused = False
                    raise RuntimeError("operation failed due to a previous error during capture")
                outer._end(self._pool)
                weakref.finalize(self, outer._release, 0, self._pool)

            def pool(self) -> Any:
                return self._pool

            def replay(self) -> None: ...

        fakes = {
            "CUDAGraph": FakeGraph,
            "stream": lambda stream: On("current", stream),
            "Stream": self._stream,
            "device": lambda device: On("device", device.index),
            "current_device": lambda: self.device,
            "current_stream": lambda device: self.current,
            "set_stream": lambda stream: setattr(self, "current", stream),
            "graph_pool_handle": self._handle,
            "synchronize": lambda *args: None,
            "empty_cache": lambda: None,
        }
        for name, fake in fakes.items():
            patch.setattr(torch.cuda, name, fake)
        for name, function in (
            ("_host_emptyCache", lambda: None),
            ("_cuda_endAllocateToPool", lambda index, pool: self._end(pool)),
            ("_cuda_releasePool", self._release),
        ):
            patch.setattr(torch._C, name, function, raising=False)
        patch.setattr(torch.cuda.graph, "default_capture_stream", None)
        patch.setattr(cuda_graphs, "_STREAMS", {}, raising=False)
        patch.setattr(torch, "ones", lambda *size, **kwargs: torch.empty(size, device="meta"))
        for name in ("mm", "addmm"):
            patch.setattr(torch, name, lambda *tensors: self.product())

    def product(self) -> None:
        """A matrix product on the current stream."""
        if self.current not in self.workspaces:
            self.workspaces.add(self.current)
            self.held.update(self.capturing[-1:])

    def refuse(self, why: str) -> None:
        """What the driver says of a call that must not be captured."""
        self._refused = True
        raise RuntimeError(why)

    def _stream(self, *args: Any) -> str:
        self._streams += 1
        return f"stream {self._streams} of {self.device}"

    def _handle(self) -> Any:
        self._handles += 1
        return (0, self._handles)

    def _end(self, pool: Any) -> None:
        if pool not in self.capturing:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.capturing.remove(pool)

    def _release(self, index: int, pool: Any) -> None:
        self.pools[pool] -= 1
        self.pools += Counter()  # only those in use
