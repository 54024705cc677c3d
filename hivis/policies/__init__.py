"""Policies that choose the size of every tree: by the drafter's confidence, or by time."""
