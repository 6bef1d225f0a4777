"""`python -m kirin_lava` is the command line."""

from kirin_lava.cli import main

main()
