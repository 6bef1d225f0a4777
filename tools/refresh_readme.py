"""Run the commands that README.md quotes and put what they print today in their place.

A quoted output stands between `<!-- run: COMMAND -->` and `<!-- end -->`. Usage: python tools/refresh_readme.py [WORD]; with a
word, only commands that contain it are run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"(<!-- run: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Refresh all blocks, or those that contain a word."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    environment = {**os.environ, "PATH": f"{README.parent}/.venv/bin:{os.environ['PATH']}", "COLUMNS": "120", "NO_COLOR": "1"}

    def run(match: re.Match[str]) -> str:
        command = match[2]
        if word not in command:
            return match[0]
        print(f"$ {command}", flush=True)
        done = subprocess.run(command, shell=True, cwd=README.parent, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{command} ended with {done.returncode}: {done.stderr}")
        lines = "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n")
        return f"{match[1]}```text\n{lines}\n```\n{match[3]}"

    README.write_text(BLOCK.sub(run, README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
