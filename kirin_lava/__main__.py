"""`python -m kirin_lava` is the command line."""

from kirin_lava.cli.main import main

main()
