"""Hugging Face VLMs behind one Target protocol."""
