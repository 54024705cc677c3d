"""A report of one generation as a single, self-contained HTML page."""

from __future__ import annotations

from hivis.page.write import write_page

__all__ = ["write_page"]
