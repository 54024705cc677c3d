"""The tests; rooms have the names of what they test."""
