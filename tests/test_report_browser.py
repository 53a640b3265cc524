"""The report in a real browser, where one is installed: no complaint, no request, tables sort by mouse and keyboard,
links open the gallery, nothing is wider than the window, and text stands out from its ground, in light and dark.

The page runs in a frame of the wanted width, since a headless window cannot be as narrow as a phone.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ccd.report.page import render
from ccd.report.run_data import RunFiles, read_run
from tests.toys.finished_run import EVIL, write_run
from tests.toys.pages import BROWSER

FRAME = """<!doctype html><meta charset="utf-8"><pre id="result"></pre>
<script>
addEventListener("message", (event) => { document.getElementById("result").textContent = event.data; });
</script>
<iframe src="page.html" style="border:0;width:WIDTHpx;height:2000px"></iframe>"""
PROBE = """<script>
const found = {}, all = (query) => [...document.querySelectorAll(query)], head = (n) => all("thead button")[n];
const cells = (column) => all(".sortable tbody tr").map((row) => row.cells[column].textContent);
const rgba = (text) => { const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a ?? 1]; };
const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
const ground = (node) => {
  for (; node; node = node.parentElement) {
    const colour = rgba(getComputedStyle(node).backgroundColor);
    if (colour[3] > 0.8) return colour;
  }
  return [255, 255, 255, 1];
};
const contrast = (node) => {
  const pair = [light(rgba(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
};
all("details").forEach((shelf) => { shelf.open = false; });
head(5).click(); found.down = cells(5);
head(5).click(); found.up = cells(5);
const last = all("thead button").findLastIndex((button) => button.textContent === "gain" || !all("thead button")
  .some((each) => each.textContent === "gain"));
found.gains = [1, 2].map(() => { head(last).click(); return cells(last); });
head(0).focus(); found.focused = document.activeElement.textContent;
head(0).click(); found.names = cells(0);
found.sorted = all("th[aria-sort]").map((cell) => cell.textContent + " " + cell.getAttribute("aria-sort"));
location.hash = "#class-0";
setTimeout(() => {
  const photo = document.querySelector("#class-0 .photo img");
  found.open = document.getElementById("class-0").open;
  all("details").forEach((shelf) => { shelf.open = true; });
  found.picture = [photo.complete, photo.naturalWidth, photo.clientWidth > 50];
  found.requests = performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length;
  found.overflow = document.documentElement.scrollWidth - innerWidth;
  found.width = innerWidth;
  const seen = (node, box) => node.right <= box.right + 1 && node.left >= box.left - 1;
  found.tables = all(".scroll").map((box) => {
    box.scrollLeft = 0;
    const cell = box.querySelector("thead tr:last-child th:last-child").getBoundingClientRect();
    const cue = getComputedStyle(box.previousElementSibling).visibility === "visible";
    return [seen(cell, box.getBoundingClientRect()), cue];
  });
  found.links = all("nav a").filter((link) => !seen(link.getBoundingClientRect(), { left: 0, right: innerWidth }))
    .map((link) => link.textContent);
  found.commands = all(".command").filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.textContent);
  found.nameless = all("img:not([alt]), svg:not([aria-label]), a:empty, button:empty").length;
  found.dark = light(ground(document.body)) < 0.2;
  const speaks = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  const texts = all("body *").filter((node) => speaks(node) && node.getClientRects().length && !node.closest("svg"));
  found.faint = texts.filter((node) => contrast(node) < 4.5).map((node) => node.className + ": " + node.textContent);
  found.texts = texts.length;
  parent.postMessage(JSON.stringify(found), "*");
}, 300);
</script></body>"""


def look(folder: Path, page: str, width_px: int, dark: bool) -> dict[str, Any]:
    """What the probe finds on ``page``; fails on any message on the browser's console."""
    (folder / "page.html").write_text(page.replace("</body>", PROBE), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width_px)), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=4000"]
    where = [f"--user-data-dir={folder / 'profile'}", f"--window-size={max(500, width_px)},900"]
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    command = [str(BROWSER), *flags, *where, *scheme, "--dump-dom", (folder / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    shown = re.search(r'<pre id="result">(.+?)</pre>', done.stdout, re.S)
    assert shown is not None, done.stdout[:2000]
    return dict(json.loads(html.unescape(shown[1])))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
@pytest.mark.parametrize(
    ("width_px", "dark"), [(1680, True), (1280, False), (1280, True), (768, False), (390, False), (390, True)]
)
@pytest.mark.parametrize("labelled", [True, False])
def test_in_a_browser(tmp_path: Path, width_px: int, dark: bool, labelled: bool) -> None:
    folder = write_run(tmp_path, labelled=labelled)
    parameters = {"text": {"templates": ["a photo of the {}"], "a_key_with_a_very_long_name": "x" * 3000}}
    run = read_run(RunFiles.in_folder(folder))
    decided = {"threshold": 0.25, "test_f1_thresholds": 80.0} if labelled else {}
    run = replace(run, per_class={name: row | decided for name, row in run.per_class.items()})
    found = look(tmp_path, render(run, "a_name_without_any_space" * 4, folder, parameters, {}), width_px, dark)
    assert found["down"] == ["3", "0", "0"] and found["up"] == ["0", "0", "3"]
    assert found["names"] == [EVIL, "cup", "tall lamp"] and found["sorted"] == ["class ascending"]
    assert found["focused"] == "class", "headings are reached by keyboard"
    assert found["open"] and found["picture"][0] and found["picture"][1] > 100 and found["picture"][2]
    if labelled:  # a class without a gain comes last, whichever the direction
        assert found["gains"] == [["\N{MINUS SIGN}10.0", "\N{EN DASH}", "\N{EN DASH}"]] * 2
    for whole, cue in found["tables"]:
        assert whole != cue, "either the last column is seen, or it is said that there are more"
        assert whole or width_px < 1280
    assert found["tables"] and found["links"] == [] and found["commands"] == []
    assert found["requests"] == 0 and found["overflow"] <= 0 and found["width"] == width_px
    assert found["nameless"] == 0 and found["dark"] == dark
    assert found["texts"] > 50 and found["faint"] == []
