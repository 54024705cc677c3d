"""Conversations, the target's answers to them, and captures on disk."""
