"""The page in a real browser, where one is installed: grid, filters, search, similar images, map, review, undo, two
sessions at once, by mouse and by keyboard alone; no complaint on the console, no request to anywhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.toys.finished_run import EVIL
from tests.toys.pages import BROWSER
from tests.toys.ui_project import DATA, ROOT, open_page, write_ui_project

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("uvicorn")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")]

ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SIZES = [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as run:
        opened = run.chromium.launch(executable_path=str(BROWSER), args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    write_ui_project()
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    server, printed = open_page()
    yield printed
    server.terminate()
    server.wait(10)


class Visit:
    """A person's browser at the page; `end` fails on anything that it complained about or asked elsewhere."""

    def __init__(self, browser: Any, address: str, width_px: int = 1280, scheme: str = "light") -> None:
        self.complaints: list[str] = []
        self._context = browser.new_context(viewport={"width": width_px, "height": 800}, color_scheme=scheme)
        self.page = self._context.new_page()
        origin = address.split("/?")[0]
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda sent: sent.url.startswith(origin) or self.complaints.append(sent.url))
        self.page.goto(address)
        self.page.wait_for_selector(".tile .label")

    def shown(self) -> list[str]:
        """The ids in the grid, in order."""
        return [text.split(" (")[0] for text in self.page.eval_on_selector_all(".tile", "all => all.map(t => t.title)")]

    def wait_for(self, count: int) -> None:
        """Wait until the grid says that it has so many images, with their captions."""
        self.page.get_by_text(f"{count} of 6 images", exact=True).wait_for()
        self.page.wait_for_timeout(250)

    def end(self) -> None:
        assert self.complaints == []
        self._context.close()


def corrections() -> str:
    return Path("corrections/toy.csv").read_text()


@pytest.mark.parametrize(("width_px", "scheme"), SIZES)
def test_nothing_is_wider_than_the_window_and_text_stands_out(
    browser: Any, address: str, width_px: int, scheme: str
) -> None:
    visit = Visit(browser, address, width_px, scheme)
    page = visit.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    assert len(page.query_selector_all(".tile img")) == 6
    page.click(".tile")
    page.wait_for_selector("#classes tbody tr.chosen")
    page.wait_for_timeout(300)
    assert page.evaluate("document.getElementById('photo').naturalWidth") > 100
    assert page.evaluate("document.querySelector('#view').scrollWidth") <= width_px
    assert len(page.query_selector_all("#overlay .box")) == 3
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 22, 27)"
    assert dark == (scheme == "dark")
    assert page.get_by_text(EVIL).count() > 0, "a hostile class name is text"
    visit.end()


def test_filters_search_similar_and_map(browser: Any, address: str) -> None:
    visit = Visit(browser, address)
    page = visit.page
    page.select_option("[name=split]", "train")
    visit.wait_for(4)
    page.select_option("[name=class]", "cup")
    page.select_option("[name=sort]", "low")
    visit.wait_for(4)
    assert visit.shown() == ["train/d", "train/c", "train/b", "train/a"]
    page.fill("[name=low]", "0.6")
    page.keyboard.press("Tab")
    visit.wait_for(2)
    page.click("text=Clear")
    visit.wait_for(6)
    page.fill("#text", "a mug")
    page.keyboard.press("Enter")
    page.get_by_text("text: a mug").wait_for(timeout=60_000)
    visit.wait_for(6)
    page.click(".tile >> nth=2")
    page.wait_for_selector("#classes tbody tr")
    name = page.inner_text("#view-title").split(" · ")[0]
    page.click("#similar")
    page.get_by_text(f"similar to {name}").wait_for()
    visit.wait_for(6)
    assert visit.shown()[0] == name
    page.click("#tab-map")
    page.get_by_text("PCA of CLIP's embeddings").wait_for()
    box = page.locator("#map-canvas").bounding_box()
    page.mouse.move(box["x"] + 12, box["y"] + 12)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + box["height"] - 12, steps=4)
    page.mouse.up()
    page.get_by_text("region of the map").wait_for()
    visit.end()


def test_review_by_keyboard_alone(browser: Any, address: str) -> None:
    visit = Visit(browser, address)
    page = visit.page
    page.keyboard.press("Enter")  # the grid has the focus
    page.wait_for_selector("#classes tbody tr.chosen")
    asked = page.inner_text("#question b")
    page.keyboard.press("y")
    page.get_by_text("1 answer in corrections/toy.csv").wait_for()
    assert f"train/a,{asked},1" in corrections()
    assert "reruns aggregate, train, head, evaluate, report" in page.inner_text("#foot")
    second = page.inner_text("#question b")
    assert second != asked
    page.keyboard.press("s")
    page.keyboard.press("n")
    page.get_by_text("2 answers in corrections/toy.csv").wait_for()
    assert f"train/a,{second}," not in corrections(), "skipped"
    page.keyboard.press("u")
    page.get_by_text("undone: 1 answer").wait_for()
    assert corrections() == f"image_id,class,label\ntrain/a,{asked},1\n"
    page.keyboard.press("ArrowRight")
    page.get_by_text("train/b · train").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("a")
    page.get_by_text("train/c · train").wait_for()
    assert corrections().count("train/b,") == 3
    page.keyboard.press("Escape")
    page.wait_for_selector("#view", state="hidden")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.get_by_text("answers are about training images alone").wait_for()
    page.keyboard.press("y")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.focus("#tab-map")
    page.keyboard.press("Enter")
    page.get_by_text("PCA of CLIP's embeddings").wait_for()
    page.focus("#map-canvas")
    page.keyboard.press("+")
    page.keyboard.press("Enter")
    page.get_by_text("region of the map").wait_for()
    assert "test/" not in corrections()
    visit.end()


def test_all_shown_are_accepted_and_taken_back_at_once(browser: Any, address: str) -> None:
    visit = Visit(browser, address)
    page = visit.page
    page.on("dialog", lambda dialog: dialog.accept())
    page.select_option("[name=class]", "cup")
    visit.wait_for(6)
    page.click("text=Accept all shown: cup")
    page.get_by_text("accepted: 4").wait_for()
    assert corrections() == "image_id,class,label\ntrain/a,cup,1\ntrain/b,cup,1\ntrain/c,cup,1\ntrain/d,cup,0\n"
    page.click("#undo")
    page.get_by_text("undone: 4 answers").wait_for()
    assert corrections() == "image_id,class,label\n"
    visit.end()


def test_two_sessions_at_once(browser: Any, address: str) -> None:
    visits = [Visit(browser, address), Visit(browser, address)]
    for visit, name in zip(visits, ("ann", "bob"), strict=True):
        visit.page.click("#who-box summary")
        visit.page.fill("#session", name)
        visit.page.fill("#who", name)
        visit.page.keyboard.press("Tab")
        visit.page.click("#who-box summary")
        visit.page.click(f".tile >> nth={0 if name == 'ann' else 1}")
        visit.page.wait_for_selector("#classes tbody tr.chosen")
    for key in ("y", "n"):
        for visit in visits:
            visit.page.keyboard.press(key)
    for _ in range(100):  # whose answer comes last is open, and so which page counts four
        if corrections().count("train/") == 4:
            break
        visits[0].page.wait_for_timeout(100)
    assert corrections().count("train/a,") == 2 and corrections().count("train/b,") == 2
    visits[0].page.keyboard.press("u")
    visits[0].page.get_by_text("undone: 1 answer").wait_for()
    assert corrections().count("train/a,") == 1 and corrections().count("train/b,") == 2, "each undoes its own"
    visits[1].page.keyboard.press("Escape")
    visits[1].page.click("#who-box summary")
    visits[1].page.get_by_text("ann: 1 answers, ann").wait_for()
    for visit in visits:
        visit.end()


@pytest.mark.parametrize(("width_px", "scheme"), SIZES)
def test_the_preview(browser: Any, address: str, width_px: int, scheme: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ccd.cli.main", "preview"], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0
    context = browser.new_context(viewport={"width": width_px, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda sent: sent.url.startswith(("file:", "data:")) or complaints.append(sent.url))
    page.goto((DATA / "preview.html").resolve().as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    assert page.evaluate("[...document.images].filter(i => i.loading !== 'lazy' && !i.naturalWidth).length") == 0
    assert page.get_by_text(EVIL).count() > 0 and complaints == []
    context.close()
