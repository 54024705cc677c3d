"""The model that ships with hivis, its drafters, and held-out images and prompts."""
