"""A campaign of damage: thousands of broken files through every command that reads, see `python -m tools.fuzz --help`."""
