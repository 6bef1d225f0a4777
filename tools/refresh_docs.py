"""Run the commands that README.md and the pages in docs/ quote, and put what they print today in their place.

A quoted output stands between `<!-- run: COMMAND -->` and `<!-- end -->`. Usage: python tools/refresh_docs.py [WORD]; with a
word, only commands that contain it are run, each once however often it is quoted. A command in parentheses, as in
`<!-- run: (python benchmarks/stories260k.py --write) -->`, takes more than some minutes: it is run only if WORD is given.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- run: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """README.md and every page."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def quoted() -> Iterator[tuple[Path, str]]:
    """Every page with each command that it quotes."""
    for page in pages():
        for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
            yield page, match[2]


def main() -> None:
    """Refresh all quotations, or those whose command contains a word."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    environment = {**os.environ, "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}", "COLUMNS": "120", "NO_COLOR": "1"}
    printed: dict[str, str] = {}

    def run(match: re.Match[str]) -> str:
        command = match[2]
        if word not in command or (command.startswith("(") and not word):
            return match[0]
        if command not in printed:
            print(f"$ {command}", flush=True)
            done = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{command} ended with {done.returncode}: {done.stderr}")
            printed[command] = "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n")
        return f"{match[1]}```text\n{printed[command]}\n```\n{match[3]}"

    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = BLOCK.sub(run, before)
        if after != before:
            page.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
