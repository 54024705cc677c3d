"""The commands of ``python -m hivis``, one module each. Slow imports wait until a command runs."""
