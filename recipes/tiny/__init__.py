"""How the bundled model was made: python -m recipes.tiny.train_target and the like."""
