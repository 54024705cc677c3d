"""No progress bars of transformers, and no warnings beside an error that says it all."""

from __future__ import annotations

import huggingface_hub
from transformers.utils import logging


def quiet() -> None:
    logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()
