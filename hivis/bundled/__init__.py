"""The model that is bundled with hivis, its drafters, and held-out images and prompts."""
