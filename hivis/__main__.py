"""python -m hivis"""

from hivis.cli import main
from hivis.errors import run_cli

if __name__ == "__main__":
    run_cli(main)
