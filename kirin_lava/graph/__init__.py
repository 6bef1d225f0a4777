"""The integer network."""
