"""The compiled extension, which everything in ``hivis.ops`` comes through."""

from __future__ import annotations

import torch  # noqa: F401  (the extension is linked against torch's libraries, which this loads)

try:
    import hivis._C as _C
except ImportError as error:
    raise ImportError(
        "hivis._C: wanted the compiled extension (pip install --no-build-isolation -e . builds it, "
        f"see docs/install.md), got: {error}"
    ) from error

__all__ = ["_C"]
