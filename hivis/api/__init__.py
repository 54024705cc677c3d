"""What a user calls: load, wrap, generate, stream, batch, chat."""
