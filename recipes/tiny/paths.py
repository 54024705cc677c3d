"""Where the drawings and dictionary sentences are."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
