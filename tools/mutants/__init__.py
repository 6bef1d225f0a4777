"""Mutation tests of the core, see `python -m tools.mutants --help`."""
