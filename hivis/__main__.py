"""python -m hivis"""

from __future__ import annotations

from typing import NoReturn

from hivis.errors import run_cli


def run() -> NoReturn:
    """The program ``hivis``."""

    def main() -> None:
        from hivis.cli.main import main as run_command

        run_command()

    run_cli(main)


if __name__ == "__main__":
    run()
