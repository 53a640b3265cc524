"""The report in a real browser, where one is installed: no complaint, tables sort, links open the gallery."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ccd.report.page import render
from ccd.report.run import RunFiles, read_run
from tests.finished_run import EVIL, write_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>
const found = {}, head = (column) => document.querySelectorAll("thead button")[column];
const cells = (column) => [...document.querySelectorAll("tbody tr")].map((row) => row.cells[column].textContent);
head(5).click(); found.down = cells(5);
head(5).click(); found.up = cells(5);
head(0).click(); found.names = cells(0);
location.hash = "#class-0";
setTimeout(() => {
  const photo = document.querySelector("#class-0 .photo img");
  found.open = document.getElementById("class-0").open;
  found.picture = [photo.complete, photo.naturalWidth];
  found.requests = performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:")).length;
  found.overflow = document.documentElement.scrollWidth - innerWidth;
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(found);
  document.body.replaceChildren(result);
}, 300);
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
@pytest.mark.parametrize("width_px", [1280, 500])
def test_in_a_browser(tmp_path: Path, width_px: int) -> None:
    folder = write_run(tmp_path)
    page = render(read_run(RunFiles.in_folder(folder)), "toy", folder, {})
    (tmp_path / "page.html").write_text(page.replace("</body>", PROBE), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=3000"]
    where = [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width_px},900"]
    command = [str(BROWSER), *flags, *where, "--dump-dom", (tmp_path / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    shown = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
    assert shown is not None
    found = json.loads(shown[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found["down"] == ["3", "0", "0"] and found["up"] == ["0", "0", "3"]
    assert found["names"] == [EVIL, "cup", "tall lamp"]
    assert found["open"] and found["picture"][0] and found["picture"][1] > 100
    assert found["requests"] == 0 and found["overflow"] <= 0
