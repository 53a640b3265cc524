"""Draws the pictures of docs/review.md: ``python tools/page_pictures.py PROJECT`` (needs playwright and a Chromium)."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

DOCS = Path(__file__).resolve().parent.parent / "docs"
SIZE = {"width": 1180, "height": 720}
QUALITY = 72


def main(project: Path) -> None:
    """Open the PROJECT, best the demo, and picture the preview, the grid and an image under review."""
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))))
    command = [sys.executable, "-m", "ccd.cli.main"]
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parent), "PYTHONUNBUFFERED": "1"}
    subprocess.run([*command, "preview", "--out", "pictured.html", "--force"], cwd=project, env=environment, check=True)
    server = subprocess.Popen(
        [*command, "open", "--no-browser"], cwd=project, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    address = re.search(r"http://\S+", server.stdout.readline())
    assert address is not None
    try:
        with sync_playwright() as run:
            browser = run.chromium.launch(executable_path=browser_path, args=["--headless=new", "--no-sandbox"])
            page = browser.new_page(viewport=SIZE)
            page.goto((project / "pictured.html").resolve().as_uri())
            page.evaluate("document.getElementById('classes').scrollIntoView()")
            _save(page, "review_preview.jpg")
            page.goto(address[0])
            page.wait_for_selector(".tile .label")
            page.select_option("[name=sort]", "doubt")
            page.wait_for_timeout(2500)
            _save(page, "review_grid.jpg")
            page.keyboard.press("Tab")
            page.click(".tile")
            page.wait_for_selector("#classes tbody tr.chosen")
            page.wait_for_timeout(1500)
            _save(page, "review_image.jpg")
            browser.close()
    finally:
        server.terminate()
        server.wait()


def _save(page: Any, name: str) -> None:
    page.wait_for_timeout(500)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.save(DOCS / name, "JPEG", quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
