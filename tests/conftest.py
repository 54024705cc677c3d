"""Options and fixtures of the whole suite."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

KINDS = ("cpu", "emulated", "cuda")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--devices",
        help="what the op tests run on, of cpu, emulated (the CUDA kernels on the CPU) and cuda; "
        "by default all that this machine can",
    )


def chosen_devices(config: pytest.Config) -> list[str]:
    """The kinds to test; a kind that was asked for and cannot be had is an error, not a skip."""
    chosen = config.getoption("--devices")
    if chosen is None:
        return ["cpu", "emulated"] + (["cuda"] if torch.cuda.is_available() else [])
    names = [name.strip() for name in chosen.split(",")]
    for name in names:
        if name not in KINDS:
            raise pytest.UsageError(f"--devices: wanted some of {', '.join(KINDS)}, got {name}")
    if "cuda" in names and not torch.cuda.is_available():
        raise pytest.UsageError("--devices: wanted a GPU that torch sees for cuda, got none")
    return names


def pytest_configure(config: pytest.Config) -> None:
    chosen_devices(config)  # a wrong --devices ends the run before it starts
    config.addinivalue_line("markers", "slow: about a minute each; -m 'not slow' leaves them out")
    config.addinivalue_line(
        "markers", "whole_models: runs models token by token, which emulation is too slow for"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" not in metafunc.fixturenames:
        return
    names = chosen_devices(metafunc.config)
    if metafunc.definition.get_closest_marker("whole_models"):
        names = [name for name in names if name != "emulated"]
    metafunc.parametrize("device", names, indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Every kind of device in turn, so that one test serves all of them.

    Emulated kernels work on CPU tensors. Their threads take turns in an order that the name of the
    test chooses, and that is therefore the same in every run.
    """
    if request.param != "emulated":
        yield torch.device(request.param)
        return
    from tests.emulation.library import emulated_ops

    with emulated_ops(seed=zlib.crc32(request.node.nodeid.encode()) % 1000):
        yield torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests work on small tensors, where threads only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def family_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a family's small checkpoint, by ``model_type``; no test writes to it."""
    from tests.helpers.families import save_checkpoint

    return cache(lambda kind: save_checkpoint(kind, tmp_path_factory.mktemp(kind)))


@pytest.fixture(scope="session")
def family_target(family_checkpoint: Any) -> Any:
    """Target and processor of that checkpoint, in float32, loaded once."""
    from hivis.models.load import load_target

    return cache(lambda kind: load_target(family_checkpoint(kind)))
