"""The paths of the bundled files."""

from pathlib import Path

BUNDLED = Path(__file__).parent
EVAL = BUNDLED / "eval"
WEIGHTS = BUNDLED / "weights"
TARGET = WEIGHTS / "target"
HIVIS = WEIGHTS / "hivis"
EAGLE = WEIGHTS / "eagle"
VISPEC = WEIGHTS / "vispec"
DRAFT_VLM = WEIGHTS / "draft_vlm"
