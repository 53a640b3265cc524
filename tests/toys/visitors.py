"""Who calls the page of the project in the working directory: strangers, people in a browser, and programs."""

from __future__ import annotations

from typing import Any

from starlette.testclient import TestClient

from ccd.ui.app import create_app
from ccd.ui.fetch import Allowed
from ccd.ui.project_data import ProjectData
from ccd.ui.security import Keys

TOKEN = "a-token-for-tests"
LABEL_STUDIO_TOKEN = "a-token-for-label-studio"
HOST = "http://127.0.0.1:8000"


class Visitor(TestClient):
    """Somebody with nothing but these headers; ``said``: what the server printed."""

    def __init__(self, allowed: Allowed = "off", **headers: str) -> None:
        self.said: list[str] = []
        keys = Keys(TOKEN, LABEL_STUDIO_TOKEN)
        made = create_app(
            ProjectData(), keys, host="127.0.0.1", port=8000, person="tester", allowed=allowed, say=self.said.append
        )
        super().__init__(made, base_url=HOST, headers=headers, raise_server_exceptions=False)


def guest() -> Visitor:
    """Somebody who opened the printed address in a browser."""
    client = Visitor()
    assert client.get(f"/?token={TOKEN}").status_code == 200
    client.headers["Origin"] = HOST
    return client


def program(allowed: Allowed = "off") -> Visitor:
    """A program with the token."""
    return Visitor(allowed, Authorization=f"Bearer {TOKEN}")


def answer(client: TestClient, *answers: tuple[str, str, object], **more: object) -> Any:
    """Answer as the page does: (image id, class, label)."""
    content = [{"image_id": image, "class": name, "label": label} for image, name, label in answers]
    return client.post("/api/answers", json={"answers": content, "session": "one", **more})


def predicted(client: TestClient, *images: str) -> list[dict[str, Any]]:
    """What ``POST /predict`` says of each of the ``images``."""
    done = client.post("/predict", json={"images": list(images)})
    assert done.status_code == 200, done.text
    found: list[dict[str, Any]] = done.json()["images"]
    return found
