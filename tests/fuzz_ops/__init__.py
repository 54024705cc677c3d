"""Random arguments for the four ops, hostile and partly wrong: an error or the oracle's answer."""
