"""The benchmark's own arithmetic, and every part of it once, as small as it goes."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu, growth, increment, measure, regions, shapes, student, teacher, voc07
from benchmarks.settings import Settings
from benchmarks.tables import Table
from ccd.runtime.hardware import Hardware, Precision
from ccd.views.crops import target_sizes
from tests.toys.chain import STAGES


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        work=tmp_path,
        images=None,
        count=5,
        batch_size=3,
        repeats=1,
        sizes=(12,),
        until="evaluate",
        large=False,
        views=1.0,
        hardware=Hardware(torch.device("cpu"), workers=0, batch_size=3),
    )


def test_rounds_are_interleaved_and_ratios_are_of_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round one: 10 items in 2 s and in 5 s; round two, on a busier machine: in 4 s and in 20 s. The slow one has a
    first batch of 2 items more that takes 7 s, and counts in no rate."""
    clock = [0.0]
    worked = []
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    def fast(watch: measure.Watch, seconds: list[float]) -> int:
        worked.append("fast")
        clock[0] += seconds.pop(0)
        return 10

    def slow(watch: measure.Watch, seconds: list[float]) -> int:
        worked.append("slow")
        clock[0] += 7
        watch.batch(2)
        clock[0] += seconds.pop(0)
        watch.batch(10)
        return 12

    slowly = [5.0, 20.0]
    quickly = [2.0, 4.0]
    found = measure.interleaved({"fast": lambda on: fast(on, quickly), "slow": lambda on: slow(on, slowly)}, 2)
    assert worked == ["fast", "slow", "fast", "slow"]
    assert found == {"fast": [(5.0, 0.0), (2.5, 0.0)], "slow": [(2.0, 7.0), (0.5, 7.0)]}
    assert measure.ratio(found["fast"], found["slow"]) == pytest.approx((2.5 + 5) / 2)
    assert measure.typical(found["slow"]) == (1.25, 7.0)


def test_a_rate_begins_behind_the_first_batches_and_ends_where_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five batches of 4 after 9 s, 1 s each but the first two; then 100 s that are no step: 12 items in 3 s."""
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    watch = measure.Watch()
    watch.start_batches = 2
    for seconds in (9.0, 5.0, 1.0, 1.0, 1.0):
        clock[0] += seconds
        watch.batch(4)
        watch.ended = clock[0]
    clock[0] += 100
    assert watch.round(20) == (4.0, 14.0)


def test_library_and_bare_model_compute_in_the_asked_precision(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = teacher.computing

    def noted(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
        seen.append((sys._getframe(1).f_code.co_name, precision))
        return original(device, precision)

    monkeypatch.setattr(teacher, "MODELS", ("tiny",))
    monkeypatch.setattr(teacher, "computing", noted)
    monkeypatch.setattr("ccd.teacher.clip_teacher.computing", noted)
    teacher.measure_teacher(replace(settings, teacher_precision="bf16"))
    assert set(seen) == {(name, "bf16") for name in ("embed_image", "work", "_encode_one")}


def test_a_process_is_measured_by_itself(tmp_path: Path) -> None:
    """A parent with 300 MB does not make its child look large; a child with 200 MB does."""
    ballast = bytearray(300 << 20)
    ballast[:: 1 << 12] = b"x" * len(ballast[:: 1 << 12])
    small = measure.run([sys.executable, "-c", "print('said')"], tmp_path)
    large = measure.run([sys.executable, "-c", "x = b'x' * (200 << 20)"], tmp_path)
    assert small.output == "said\n" and small.seconds > 0
    assert small.peak_mb < 100 < 200 < large.peak_mb
    with pytest.raises(RuntimeError, match=r"ended with 3(.|\n)*oh no"):
        measure.run([sys.executable, "-c", "import sys; print('oh no', file=sys.stderr); sys.exit(3)"], tmp_path)


def test_a_table() -> None:
    text = Table("Title", "Note.", ("a", "b"), [["1", "2"]]).markdown()
    assert text == "## Title\n\nNote.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"


def column(table: Table, name: str) -> list[str]:
    return [row[list(table.columns).index(name)] for row in table.rows]


def check_shape(table: Table) -> None:
    assert all(len(row) == len(table.columns) for row in table.rows)


@pytest.mark.slow
def test_teacher_and_student(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "MODELS", ("tiny",))
    monkeypatch.setattr(student, "STUDENTS", (("resnet18", 32),))
    seen = teacher.measure_teacher(settings)
    check_shape(seen)
    assert column(seen, "stage") == ["clip_global", "clip_local"] and column(seen, "per run") == [
        "5 images",
        "20 views",
    ]
    trained = student.measure_student(settings)
    check_shape(trained)
    assert column(trained, "stage") == ["warmup", "train", "cam_boxes", "evaluate", "predict"]


def test_drawn_boxes_have_the_spread_of_those_on_photos() -> None:
    """As on 1,738 photos: sides of a third to the whole of the image's, and some thirty shapes at 640 px."""
    sizes_px = np.tile([375, 500], (5000, 1))
    boxes_px = teacher.boxes_on(sizes_px)
    assert (boxes_px[:, :2] >= 0).all() and (boxes_px[:, 2:] <= sizes_px[:, ::-1] + 1e-3).all()
    sides_px = boxes_px[:, 2:] - boxes_px[:, :2]
    assert np.log(sides_px[:, 0] / sides_px[:, 1]).std() == pytest.approx(0.39, abs=0.03)
    assert len(np.unique(target_sizes(boxes_px, 640, 32), axis=0)) >= 28
    assert len(np.unique(target_sizes(boxes_px, 640, 32, 6), axis=0)) == 8


def test_bare_batches_are_those_that_the_teacher_gets(settings: Settings) -> None:
    """Of 20 + 3 images the last batch is filled up to 16."""
    batches = ((torch.arange(count), torch.zeros(count, 3, 2, 4, dtype=torch.uint8)) for count in (20, 3))
    assert teacher._sent(settings, batches) == {((2, 4), 20): 1, ((2, 4), 16): 1}


def test_shapes_of_the_demo(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 96 px, three strides, seven lengths change nothing, and at 448 px they change some views."""
    monkeypatch.setattr(shapes, "DEMO_SIZES_PX", (96, 448))
    table = shapes.measure_shapes(settings)
    check_shape(table)
    assert column(table, "compared") == ["7 lengths", "moved"] * 2 + [""]
    assert column(table, "strides") == ["3", "3", "14", "14", "20"]
    assert table.rows[0][-6:] == ["1.0000", "1.0000", "0.0000", "0.0000", "0.0000", "0.0%"]
    assert float(column(table, "cosine, lowest")[2]) < 1


@pytest.mark.slow
def test_a_share_of_voc07_on_a_cpu(settings: Settings) -> None:
    """With a tiny CLIP; every stage runs, and the networks alone need time in those that use them."""
    table = voc07.measure_voc07(replace(settings, share=0.001))
    check_shape(table)
    assert column(table, "stage") == [*STAGES, "**all**"]
    networks = {"clip_global", "warmup", "cam_boxes", "clip_local", "train", "evaluate"}
    assert {row[0] for row in table.rows if float(row[-1].strip("*")) > 0} == {*networks, "**all**"}


def test_packages_that_a_bare_machine_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.missing() == []
    monkeypatch.setattr(gpu, "_installed", lambda name: name not in ("dvc", "rf-clip", "h5py"))
    assert gpu.missing() == ["rf-clip", "h5py"]  # the stages are started without DVC
    with pytest.raises(SystemExit, match="lacks packages; install them with: pip install rf-clip h5py"):
        gpu.main()


@pytest.mark.slow
def test_regions(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "MODELS", ("tiny",))
    seen = regions.measure_regions(settings)
    check_shape(seen)
    assert column(seen, "pass") == [*regions.REGIONS_OF, regions.CROPS]
    assert seen.rows[0][-2:] == ["100%", "100%"]


@pytest.mark.slow
def test_growth(settings: Settings) -> None:
    for table, stages in (
        (growth.measure_growth(settings), growth.IMAGE_STAGES),
        (growth.measure_label_growth(settings), growth.LABEL_STAGES),
    ):
        check_shape(table)
        assert column(table, "stage") == [*stages]
        assert set(column(table, "images")) <= {"12", "1"}  # evaluate: a tenth


@pytest.mark.slow
def test_growth_ends_where_asked(settings: Settings) -> None:
    table = growth.measure_growth(replace(settings, until="clip_global"))
    assert column(table, "stage") == ["index", "clip_global"]


@pytest.mark.slow
def test_increment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(increment, "IMAGES", 20)
    monkeypatch.setattr(increment, "MORE", 3)
    table = increment.measure_increment(settings)
    assert column(table, "encoded") == ["20", "3", "23"]
    assert column(table, "same bytes as from nothing")[1] == "yes"
