"""How the models that ship with hivis were made."""
