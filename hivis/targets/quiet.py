"""No progress bars of transformers."""

from __future__ import annotations

from transformers.utils import logging


def quiet() -> None:
    logging.disable_progress_bar()
