"""`kirin-lava` and `python -m kirin_lava`: first Ctrl-C, then the command line."""

from kirin_lava.cli.interrupt import interrupt


def main() -> None:
    """The command line, as a program of its own."""
    interrupt.own()
    from kirin_lava.cli.main import main as commands

    commands()


if __name__ == "__main__":
    main()
