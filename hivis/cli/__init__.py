"""The commands of ``python -m hivis``, one module each; what is slow to import they import late."""
