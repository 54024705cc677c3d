"""The recipe of the bundled model: data, target, draft model, evaluation, shipping."""
