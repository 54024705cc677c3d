"""Records that installed packages name as entry points: all of them, or one clear error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from hivis.core.registry import Registry
from hivis.errors import HivisError

GROUP = "hivis.toys"


@dataclass(frozen=True)
class Toy:
    name: str
    size: int = 1


BALL = Toy("ball")
TAKEN = Toy("own", 2)
NAMELESS = 5


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """Entry points of the group as installed packages declare them, one package each."""
    for name, value in points.items():
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(folder)


def toys() -> Registry[Toy]:
    registry: Registry[Toy] = Registry("toy", GROUP)
    registry.register(Toy("own"))
    return registry


def test_what_packages_name_comes_after_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, ball=f"{__name__}:BALL")
    assert toys().names() == ("own", "ball") and toys().get("ball") is BALL


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("not.installed:TOY", "No module named 'not'"),
        (f"{__name__}:GONE", "module '.*' has no attribute 'GONE'"),
        (f"{__name__}:NAMELESS", "'int' object has no attribute 'name'"),
        (f"{__name__}:TAKEN", "toy: wanted a name of its own, got own again"),
    ],
)
def test_a_broken_package_is_named_as_often_as_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, reason: str
) -> None:
    install(tmp_path, monkeypatch, broken=value, whole=f"{__name__}:BALL")
    registry = toys()
    for ask in (registry.names, registry.records, lambda: registry.get("own")):
        with pytest.raises(HivisError) as error:
            ask()
        (line,) = str(error.value).splitlines()
        assert line.startswith(f"entry point broken = {value} of {GROUP}: wanted a toy, got: ")
        error.match(reason)
