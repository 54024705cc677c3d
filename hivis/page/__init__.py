"""An image of a run: one HTML page, whole in itself, about a text that was just generated."""

from __future__ import annotations

from hivis.page.write import write_page

__all__ = ["write_page"]
