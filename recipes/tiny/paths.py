"""The folder of the drawings and dictionary sentences."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
