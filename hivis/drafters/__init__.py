"""Drafters behind one Drafter protocol."""
