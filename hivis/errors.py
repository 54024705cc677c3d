"""The one exception that hivis raises for bad input."""


class HivisError(ValueError):
    """Bad input, said in one line: the name of what was wrong, what was wanted, what was got.

    The command-line tools print the message alone, without a traceback, and exit with status 2.
    """
