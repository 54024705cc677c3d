"""The decode loop: one cycle, a running batch of sequences, and what they return."""
