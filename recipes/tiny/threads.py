"""How this process's threads wait for each other."""

import os
import sys


def patient_threads() -> None:
    """Restart the program with OpenMP threads that sleep while they wait, instead of spinning.

    Where other work shares the cores, spinning makes a training step about three times slower.
    OpenMP reads the setting when it is loaded, so it cannot be changed from within. Call it first.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
