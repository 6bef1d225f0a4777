"""How commands begin and end: every error as one line and an exit code, nothing behind it that Python would say."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Sequence
from typing import Any

import click

from kirin_lava.base.console import ReaderGoneError, drop_stdout, flush_stdout, print_error, say, survive_any_text
from kirin_lava.base.errors import KirinError
from kirin_lava.base.terminal import plain_line
from kirin_lava.cli.interrupt import CODE, WORD, interrupt
from kirin_lava.methods.recipes import recipe_help

__all__ = ["CommandWithRecipes", "Commands"]

_READER_GONE = 141  # what a shell says of a program that SIGPIPE ended


class CommandWithRecipes(click.Command):
    """A command whose help lists the recipes with their price, one line each."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Below the options."""
        with formatter.section("Recipes"):
            for line in recipe_help():
                formatter.write(f"{' ' * formatter.current_indent if line else ''}{line}\n")


class Commands(CommandWithRecipes, click.Group):
    """Turns errors raised on purpose into one line on stderr and their exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """As in click, but the errors are shown here: safe and short, and those of the standard output among them."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        survive_any_text()
        sys.exit(self._run(args, prog_name, complete_var, extra))

    def invoke(self, ctx: click.Context) -> Any:
        """The work of a command."""
        with interrupt:
            try:
                return super().invoke(ctx)
            except BaseException as error:
                if interrupt.pressed or isinstance(error, KeyboardInterrupt):
                    say(WORD)
                    ctx.exit(CODE)
                if isinstance(error, KirinError):
                    print_error(str(error))
                    ctx.exit(error.exit_code)
                if isinstance(error, ReaderGoneError):
                    ctx.exit(_READER_GONE)
                raise

    def _run(self, args: Any, prog_name: str | None, complete_var: str | None, extra: dict[str, Any]) -> int:
        try:
            code = super().main(args, prog_name, complete_var, False, **extra)
            flush_stdout()
            return code if isinstance(code, int) else 0
        except click.ClickException as error:
            shown = io.StringIO()
            error.show(shown)
            for line in shown.getvalue().splitlines():
                click.echo(plain_line(line), err=True)
            return error.exit_code
        except click.Abort:
            say(WORD)
            return CODE
        except KirinError as error:  # of the last flush
            print_error(str(error))
            return error.exit_code
        except ReaderGoneError:
            return _READER_GONE
        except OSError as error:  # of a help text
            if error.errno not in (errno.ENOSPC, errno.EIO) or error.filename is not None:
                raise
            drop_stdout()
            print_error(f"writing to the standard output failed: {error.strerror}")
            return 2
        except SystemExit:  # of a help text whose reader is gone, as click says it
            drop_stdout()
            return _READER_GONE
