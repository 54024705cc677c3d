"""Load a drafter from its folder, ready to be bound to its target."""

from __future__ import annotations

from pathlib import Path

from hivis.drafters.hivis import HiViSDrafter


def load_drafter(path: str | Path) -> HiViSDrafter:
    """Read a drafter. Device and dtype are those of the target that it is bound to.

    Raises:
        HivisError: folder missing, weights corrupt, a pickle, of an unknown kind or wrong sizes.
    """
    return HiViSDrafter.load(path)
