"""The file of the page: checked before the model loads, and written completely or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hivis.errors import HivisError

if TYPE_CHECKING:
    from hivis.api.model import ImageSources, Model, Prompt
    from hivis.api.stream import TextStream


def write_page(
    path: str | Path, model: Model, stream: TextStream, prompt: Prompt, images: ImageSources = ()
) -> None:
    """Write a page about a generation: images, output by cycle, draft trees, times.

    The page is self-contained: it needs no network and no other file. ::

        stream = model.stream(prompt, images, traced=True)
        for piece in stream:
            print(piece, end="")
        write_page("run.html", model, stream, prompt, images)

    Args:
        path: the HTML file; an existing one is replaced.
        model: the model that generated the output.
        stream: created with ``traced=True``, and read to its end.
        prompt, images: the arguments with which the stream was created.

    Raises:
        HivisError: the stream was not traced or not read to its end, an image cannot be read any
            more, or the file cannot be written.
    """
    from hivis.page.assemble import page
    from hivis.page.run import collect_run

    check_writable(path)
    replace_file(Path(path), page(collect_run(model, stream, prompt, images)))


def check_writable(path: str | Path, name: str = "path") -> None:
    """HivisError, with the caller's ``name`` for the path, unless a file can be written there."""
    place = Path(path)
    if not str(path) or place.is_dir():
        raise HivisError(f"{name}: wanted the path of a file, got {str(path)!r}")
    if place.exists() and not place.is_file():
        raise HivisError(f"{name} {path}: wanted a file, got a device or a pipe")
    folder = place.resolve().parent
    if not folder.is_dir():
        raise HivisError(f"{name} {path}: wanted a folder that exists, got {place.parent}")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise HivisError(
            f"{name} {path}: wanted a folder that can be written to, got: {error.strerror}"
        ) from None


def replace_file(path: Path, text: str) -> None:
    """Replace the file at ``path``: readers see the old or the new one, never part of it."""
    path = path.resolve()  # so that a link is not replaced
    draft = path.parent / f".hivis-page-{os.getpid()}.part"
    try:
        with open(draft, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
