"""Where the shipped files are."""

from pathlib import Path

TINY = Path(__file__).parent
ASSETS = TINY / "assets"
EVAL = TINY / "eval"
WEIGHTS = TINY / "weights"
TARGET = WEIGHTS / "target"
HIVIS = WEIGHTS / "hivis"
EAGLE = WEIGHTS / "eagle"
VISPEC = WEIGHTS / "vispec"
DRAFT_VLM = WEIGHTS / "draft_vlm"
