"""The page in headless Chromium: no console message, nothing loaded, no horizontal scroll on a phone, in light and dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from kirin_lava.tasks.report import Report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=3000"
)
# A window of the browser has a smallest width, a frame has not: the page is looked at in a frame, which reports to the window.
FRAME = """<!DOCTYPE html><script>
addEventListener("message", e => { document.documentElement.dataset.probe = e.data; });
</script><iframe style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe>"""
PROBE = """<script>
addEventListener("load", () => {
  const root = document.documentElement, shown = e => e.getClientRects().length > 0;
  const wide = [...document.body.querySelectorAll("*")].filter(e => shown(e) && !e.closest(".scroll, svg, pre")
    && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80));
  const cut = [...document.querySelectorAll("svg text")].filter(shown).filter(t => {
    const box = t.getBoundingClientRect(), frame = t.closest("svg").getBoundingClientRect();
    return box.left < frame.left - 3 || box.right > frame.right + 3;
  }).map(t => t.textContent);
  parent.postMessage(JSON.stringify({
    width: innerWidth, scroll: root.scrollWidth, wide, cut,
    loaded: performance.getEntriesByType("resource").map(e => e.name),
    figures: [...document.querySelectorAll("svg, img")].filter(shown).length,
    unlabelled: [...document.querySelectorAll("svg, img")].filter(e => !e.getAttribute("aria-label") && !e.alt).length,
    page: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
  }), "*");
});
</script></head>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: make browser tries to")


def _look(html: Path, folder: Path, width: int, dark: bool = False) -> tuple[dict[str, Any], str]:
    """Load a page with the probe in it; what the probe found, and what the browser logged from the console."""
    probed = folder / "probed.html"
    page = html.read_text(encoding="utf-8").replace("</head>", PROBE, 1)
    probed.write_text(FRAME.replace("{width}", str(width)).replace("{page}", escape(page)), encoding="utf-8")
    theme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    command = [str(BROWSER), *FLAGS.split(), *theme, f"--user-data-dir={folder / 'profile'}", "--window-size=1100,900"]
    ran = subprocess.run([*command, "--dump-dom", probed.as_uri()], capture_output=True, text=True, timeout=300, check=False)
    found = re.search(r'data-probe="([^"]*)"', ran.stdout)
    assert found is not None, ran.stderr[-2000:]
    return json.loads(unescape(found[1])), "\n".join(line for line in ran.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("width", [400, 1000])
def test_it_loads_and_fits(made: Report, tmp_path: Path, width: int) -> None:
    found, console = _look(made.files[2], tmp_path, width)
    assert console == ""
    assert found["width"] == width
    assert found["scroll"] <= width and found["wide"] == []
    assert found["cut"] == [], "texts that leave their figure"
    assert found["loaded"] == []
    assert found["figures"] == 6 and found["unlabelled"] == 0


def test_dark_is_dark(made: Report, tmp_path: Path) -> None:
    light, _ = _look(made.files[2], tmp_path, 1000)
    dark, _ = _look(made.files[2], tmp_path, 1000, dark=True)

    def brightness(colour: str) -> int:
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3])

    assert brightness(light["page"]) > 700 > 150 > brightness(light["ink"])
    assert brightness(dark["page"]) < 150 < 600 < brightness(dark["ink"])


def test_the_probe_sees_what_is_wrong(made: Report, tmp_path: Path) -> None:
    """A page with a fault is caught: the checks above can fail."""
    broken = tmp_path / "broken.html"
    text = made.files[2].read_text(encoding="utf-8")
    text = text.replace("</main>", '<div style="width:900px">wide</div><svg></svg><script>missing()</script></main>', 1)
    broken.write_text(text, encoding="utf-8")
    found, console = _look(broken, tmp_path, 400)
    assert found["scroll"] > 400 and found["wide"] and found["unlabelled"] == 1
    assert "missing is not defined" in console
