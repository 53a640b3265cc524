"""The recommended teachers against open_clip's own configurations, licences by name, and where both are shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ccd.artifacts import text_file
from ccd.cli.options import print_licence_warning
from ccd.deploy.model_card import model_card, read_facts
from ccd.params.presets import parameters
from ccd.params.recipes import HARDWARE
from ccd.params.teachers import TEACHERS, Recommended, hub_line, weights_licence
from tests.toys.chain import write_pictures
from tests.toys.commands import invoke
from tests.toys.deployed import CLASSES, write_student

EACH = pytest.mark.parametrize("row", TEACHERS, ids=lambda row: row.model)


def test_the_first_of_each_hardware_is_what_init_takes() -> None:
    first = {row.hardware: row.model for row in reversed(TEACHERS)}
    assert first == {name: values["teacher.model"] for name, values in HARDWARE.items()}


@EACH
def test_a_row_says_what_open_clip_says(row: Recommended) -> None:
    open_clip = pytest.importorskip("open_clip")
    name, tag = row.config
    config = open_clip.get_model_config(name)
    assert (row.dim, row.image_px) == (config["embed_dim"], config["vision_cfg"]["image_size"])
    if row.backend == "open_clip":
        assert row.model == "hf-hub:" + open_clip.get_pretrained_cfg(name, tag)["hf_hub"].rstrip("/")
    else:
        assert tag == "openai" and row.model.replace("/", "-") == name


@pytest.mark.slow
@EACH
def test_weights_and_operations_are_counted(row: Recommended) -> None:
    """On the meta device: shapes without memory or arithmetic."""
    open_clip = pytest.importorskip("open_clip")
    from torch.utils.flop_counter import FlopCounterMode

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its one large operation is not counted
    try:
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counted:
            network = open_clip.create_model(row.config[0], load_weights=False, device="meta").eval()
            network.requires_grad_(False).encode_image(torch.zeros(1, 3, row.image_px, row.image_px))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert round(sum(weight.numel() for weight in network.parameters()) / 1e6) == row.parameters_m
    assert round(counted.get_total_flops() / 1e9, 1) == row.gflop


@EACH
def test_no_row_is_restricted_and_the_licence_is_the_one_that_a_name_tells(row: Recommended) -> None:
    licence = weights_licence(row.backend, row.model, None)
    assert licence is not None and licence == (row.licence, False)
    assert weights_licence("open_clip", *row.config) == licence


@pytest.mark.parametrize(
    ("backend", "model", "pretrained", "name", "is_restricted"),
    [
        ("open_clip", "MobileCLIP2-S0", "dfndr2b", "Apple", True),
        ("open_clip", "MobileCLIP-B", "datacompdr", "Apple", True),
        ("open_clip", "ViT-B-16", "dfn2b", "Apple", True),
        ("open_clip", "hf-hub:apple/DFN5B-CLIP-ViT-H-14", None, "Apple", True),
        ("open_clip", "hf-hub:timm/MobileCLIP2-S4-OpenCLIP", None, "Apple", True),
        ("open_clip", "ViT-B-32", "metaclip_400m", "CC-BY-NC", True),
        ("open_clip", "hf-hub:timm/vit_huge_patch14_clip_224.metaclip2_worldwide", None, "CC-BY-NC", True),
        ("open_clip", "/home/x/MetaCLIP-B", None, "CC-BY-NC", True),
        ("open_clip", "ViT-B-32", "laion2b_s34b_b79k", "MIT", False),
        ("open_clip", "ViT-L-14", "datacomp_xl_s13b_b90k", "MIT", False),
        ("clip", "ViT-L/14@336px", None, "MIT", False),
    ],
)
def test_licences_by_name(backend: str, model: str, pretrained: str | None, name: str, is_restricted: bool) -> None:
    licence = weights_licence(backend, model, pretrained)
    assert licence is not None and licence.name.startswith(name) and licence.is_restricted == is_restricted


@pytest.mark.parametrize(
    ("backend", "model", "pretrained"),
    [
        ("clip", "ccd/demo/assets/clip.pt", None),
        ("clip", "/home/metaclip/own.pt", None),
        ("open_clip", "/home/x/ViT-B-16-SigLIP2", None),
        ("open_clip", "ViT-H-14-CLIPA-336", "laion2b"),
        ("open_clip", "hf-hub:someone/else", None),
    ],
)
def test_nothing_is_said_of_what_is_not_known(backend: str, model: str, pretrained: str | None) -> None:
    assert weights_licence(backend, model, pretrained) is None


def test_the_command_lists_every_row_of_every_hardware() -> None:
    text = invoke("teachers").output
    assert all(row.model in text for row in TEACHERS) and "laptop" in text and "data-centre" in text
    rows = json.loads(invoke("teachers", "--json").output)
    assert [row["model"] for row in rows] == [row.model for row in TEACHERS]
    assert rows[0] == {
        "hardware": "cpu", "model": "ViT-B/32", "parameters_m": 151, "image_px": 224, "gflop": 8.8, "dim": 512,
        "licence": "MIT", "when": "default; least work", "backend": "clip",
    }  # fmt: skip


def test_init_takes_a_row_and_warns_of_a_restricted_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    write_pictures(tmp_path / "photos", ("red", "green", "blue"))
    model = "hf-hub:timm/ViT-B-16-SigLIP2-384"
    done = invoke("init", "own", "--images", "photos", "--device", "cpu", "--teacher", model)
    assert done.exit_code == 0, done.output
    assert "hf download timm/ViT-B-16-SigLIP2-384" in done.output and "warning" not in done.output
    values = parameters((tmp_path / "own/params.yaml").read_text())
    assert (values["teacher"]["backend"], values["teacher"]["model"]) == ("open_clip", model)
    assert values["clip_global"]["image_size_px"] == values["clip_local"]["image_size_px"] == 384
    chosen = ("--set", "teacher.backend=open_clip", "--set", "teacher.pretrained=dfndr2b", "--json")
    done = invoke("init", "two", "--images", "photos", "--device", "cpu", "--teacher", "MobileCLIP2-S0", *chosen)
    assert "warning: by its name, the teacher MobileCLIP2-S0 dfndr2b has weights under Apple" in done.stderr
    assert json.loads(done.stdout)["teacher_licence"].startswith("Apple")


def test_use_warns_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_licence_warning({"teacher": {"backend": "open_clip", "model": "ViT-B-32", "pretrained": "metaclip_400m"}})
    assert "CC-BY-NC-4.0" in capsys.readouterr().err
    print_licence_warning({"teacher": {"backend": "clip", "model": "ViT-B/32", "pretrained": None}})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("teacher", "line", "is_restricted"),
    [("open_clip hf-hub:timm/PE-Core-B-16", "Apache-2.0", False), ("open_clip MobileCLIP2-S0", "Apple", True)],
)
def test_the_model_card_names_the_licence(teacher: str, line: str, is_restricted: bool, tmp_path: Path) -> None:
    write_student(tmp_path / "student.pt")
    attributes = {"teacher": teacher, "fingerprint": "none"}
    names = [(name,) for name in CLASSES]
    text_file.write(
        tmp_path / "text.h5",
        text_file.TextEmbeddings(CLASSES, np.eye(3, dtype=np.float32), 100.0, tuple(names), ("a {}",), attributes),
    )
    facts, _ = read_facts(tmp_path / "student.pt", "not stated", tmp_path / "no.lock")
    card = model_card(facts)
    assert f"- Licence of the teacher's weights: {line}" in card
    assert ("**The teacher's weights are under Apple" in card) == is_restricted


def test_the_download_of_a_model_of_the_hub() -> None:
    assert hub_line("ViT-B/32") is None
    line = hub_line("hf-hub:timm/PE-Core-B-16") or ""
    assert "https://huggingface.co/timm/PE-Core-B-16, about 1.8 GB;" in line
