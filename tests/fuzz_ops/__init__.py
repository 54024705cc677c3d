"""Random arguments for the six ops, hostile and partly wrong: an error or the oracle's answer."""
