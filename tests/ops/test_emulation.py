"""The CUDA kernels, run on this machine's processor, and proof that such a run notices faults."""

from __future__ import annotations

import functools
import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hivis import ops
from hivis.ops import reference
from tests.emulation import library
from tests.emulation.faults import FAULTS

HERE = Path(__file__).resolve().parents[1] / "emulation"
CHECKS = sorted(path.stem.removeprefix("check_") for path in HERE.glob("check_*.cpp"))
SEEDS = {"plain": "0,1,2,3", "race": "0", "ubsan": "1"}
DIAGNOSES = ("FAILED:", "emulation:")

pytestmark = pytest.mark.skipif(not library.BUILD.exists(), reason=f"no build in {library.BUILD}")


@functools.cache
def everything_builds() -> bool:
    try:
        library.build("emulation_checks", "emulation_faults", "emulation_library")
    except RuntimeError:
        return False  # the test of what does not build says so
    return True


def run(program: str, build: str, only: str = "") -> subprocess.CompletedProcess[str]:
    if not everything_builds():
        library.build(program)
    command = [str(library.PROGRAMS / program), "--seeds", SEEDS[build]]
    if only:
        command += ["--only", only]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("build", SEEDS)
@pytest.mark.parametrize("check", CHECKS)
def test_check(check: str, build: str) -> None:
    result = run(f"check_{check}_{build}", build)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "name, build", [(name, build) for name, fault in FAULTS.items() for build in fault.builds]
)
def test_fault_is_noticed(name: str, build: str) -> None:
    result = run(f"fault_{name}_{build}", build, FAULTS[name].only)
    assert result.returncode == 1, f"{name} went unnoticed"
    assert any(line.startswith(DIAGNOSES) for line in result.stderr.splitlines()), result.stderr


def test_every_check_notices_something() -> None:
    assert {fault.check for fault in FAULTS.values()} == set(CHECKS)


# What the kernels promise not to use must not be there.
@pytest.mark.parametrize(
    "statement",
    [
        "__shared__ int x[4];",
        "__ldg(static_cast<const int*>(nullptr));",
        "atomicCAS(static_cast<unsigned*>(nullptr), 0u, 1u);",
        "__shfl_sync(~0u, uint16_t{1}, 0);",
        "hivis::cuda::mma<float>({}, {}, 0, 0);",
    ],
)
def test_other_builtins_do_not_compile(statement: str) -> None:
    compiler = shutil.which("c++")
    assert compiler is not None
    source = f'#include "cuda/ptx.h"\n__global__ void kernel() {{ {statement} }}\n'
    command = [compiler, "-std=c++20", f"-I{HERE / 'include'}", "-fsyntax-only", "-x", "c++", "-"]
    valid = source.replace(statement, "__syncthreads();")
    assert subprocess.run(command, input=valid, capture_output=True, text=True).returncode == 0
    assert subprocess.run(command, input=source, capture_output=True, text=True).returncode != 0


def test_stand_in_has_what_ptx_has() -> None:
    real = (library.ROOT / "csrc/cuda/ptx.h").read_text()
    stand_in = (HERE / "include/cuda/ptx.h").read_text()
    names = set(re.findall(r"__forceinline__ [\w*]+ (\w+)(?:<\w+>)?\(", real))
    assert len(names) > 10
    assert {name for name in names if not re.search(rf" {name}\(", stand_in)} == set()


# --- From Python


def compact_arguments() -> tuple[torch.Tensor, ...]:
    kv = torch.arange(2 * 2 * 2 * 3 * 20 * 8, dtype=torch.float32).view(2, 2, 2, 3, 20, 8)
    kv_len = torch.tensor([3, 9], dtype=torch.int32)
    path = torch.tensor([[0, 2, 5], [1, 4, 99]], dtype=torch.int32)
    path_len = torch.tensor([3, 2], dtype=torch.int32)
    return kv, kv_len, path, path_len


@pytest.mark.parametrize("seed", range(5))
def test_emulated_op(seed: int) -> None:
    wanted = compact_arguments()
    reference.kv_compact_(*wanted)
    got = compact_arguments()
    with library.emulated_ops(seed):
        ops.kv_compact_(*got)
    for want, have in zip(wanted, got, strict=True):
        assert torch.equal(want, have)


# The CPU body refuses a path that decreases; the CUDA body cannot see it.
def test_bodies_come_and_go() -> None:
    kv, kv_len, path, path_len = compact_arguments()
    path[0, 1] = -7
    with library.emulated_ops(0):
        ops.kv_compact_(kv.clone(), kv_len.clone(), path, path_len)
        assert torch.empty(8).isnan().all()
    with pytest.raises(RuntimeError, match="path"):
        ops.kv_compact_(kv, kv_len, path, path_len)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.fixture
def capturing() -> Iterator[None]:
    """As if a graph were being captured, after a call that was not."""
    with library.emulated_ops(0):
        torch.ops.hivis_emulated.tickets(1)
        torch.ops.hivis_emulated.set_capturing(True)
        yield
        torch.ops.hivis_emulated.set_capturing(False)
        torch.ops.hivis_emulated.forget_graph()


def test_calls_of_one_stream_share_their_counters() -> None:
    with library.emulated_ops(0):
        tickets = torch.ops.hivis_emulated.tickets
        first, second = tickets(40), tickets(7)
        assert first.data_ptr() == second.data_ptr() and second.numel() == 7
        assert not tickets(5000).any()  # a longer buffer starts at zero, too


def test_captured_calls_have_counters_of_their_own(capturing: None) -> None:
    tickets = torch.ops.hivis_emulated.tickets
    torch.ops.hivis_emulated.set_capturing(False)
    shared = tickets(64)
    torch.ops.hivis_emulated.set_capturing(True)
    taken = [shared] + [tickets(count) for count in (1, 33, 64)]
    spans = sorted((t.data_ptr(), t.data_ptr() + 4 * t.numel()) for t in taken)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert not any(t.any() for t in taken)


def test_a_graph_that_is_gone_gives_its_counters_back(capturing: None) -> None:
    """The supply is a million: it would be used up by the third graph of the first kind."""
    for count in (400_000, 1000):
        found = set()
        for _ in range(10):
            counters = torch.ops.hivis_emulated.tickets(count)
            found.add(counters.data_ptr())
            assert not counters.any()
            torch.ops.hivis_emulated.forget_graph()
        assert len(found) == 1


def test_a_captured_call_finds_counters_when_the_supply_is_used_up(capturing: None) -> None:
    tickets = torch.ops.hivis_emulated.tickets
    taken = []
    for _ in range(3):  # of a million
        counters = tickets(600_000)
        assert counters.numel() == 600_000 and not counters.any()
        counters.fill_(1)  # no other call may get these
        taken.append(counters)
    got = compact_arguments()
    wanted = compact_arguments()
    reference.kv_compact_(*wanted)
    ops.kv_compact_(*got)
    assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])
    for counters in taken:
        counters.zero_()  # as the kernels leave them


def test_failure_is_an_exception(capfd: pytest.CaptureFixture[str]) -> None:
    numbers = torch.arange(3 * 64 * 4 + 1, dtype=torch.int32)
    aligned, off_by_one = numbers[:-1].view(3, 64, 4), numbers[1:].view(3, 64, 4)
    with library.emulated_ops(0):
        sum_tiles = torch.ops.hivis_emulated.sum_tiles
        with pytest.raises(RuntimeError, match="aligned to 16 bytes.*\n.*block"):
            sum_tiles(off_by_one)
        assert "emulation: cp_async" in capfd.readouterr().err
        assert torch.equal(sum_tiles(aligned), aligned.sum(0).flip(0))
