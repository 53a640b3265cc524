"""A little of `python -m tests.faults.interrupt`, with a seed of its own."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from random import Random

import pytest
import torch

from tests.faults.interrupt import Found, deal, measure, problems, table
from tests.faults.kinds import KINDS, RESUMABLE, KilledWithWorkKept, is_kept_work
from tests.faults.laboratory import CHAIN, DATA, LIMIT_S, READERS, Laboratory, build, leftovers, outputs
from tests.faults.under_dvc import NAME


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """Several batches and epochs, after each of which something is kept."""
    torch.set_num_threads(1)
    changed = {"runtime__inference_batch_size": "4", "warmup__epochs": "4", "train__epochs": "4"}
    return build(tmp_path_factory.mktemp("lab"), **changed)


@pytest.mark.slow
@pytest.mark.parametrize("stage", RESUMABLE)
@pytest.mark.parametrize("seed", range(2))
def test_a_killed_stage_goes_on_from_what_it_kept_to_the_same_bytes(
    stage: str, seed: int, lab: Laboratory, tmp_path: Path
) -> None:
    lab.fill(tmp_path, stage)
    fault = KilledWithWorkKept(lab, stage, Random(f"{stage} {seed}"), 0)
    assert lab.start(tmp_path, stage, fault.inside).wait(LIMIT_S).code == -signal.SIGKILL
    kept = [path for path in (tmp_path / ".ccd").rglob("*.*") if path.is_file() and path.suffix != ".tmp"]
    kept = [path for path in kept if is_kept_work(path)]
    assert {path.suffix for path in kept} == {".npz" if stage.startswith("clip") else ".pt"}
    assert [name for name in outputs(stage) if (tmp_path / DATA / name).exists()] == []
    again = lab.again(tmp_path, stage)
    assert again.code == 0 and "Traceback" not in again.said
    assert lab.differing(tmp_path, outputs(stage)) == [] and leftovers(tmp_path) == []
    if stage.startswith("clip"):
        encoded, stored = map(int, re.search(r"([\d,]+) encoded, ([\d,]+) from the store", again.said).groups())  # type: ignore[union-attr]
        assert stored > 0 and encoded > 0


@pytest.mark.slow
def test_no_fault_leaves_a_wrong_file_or_cannot_be_recovered_from(tmp_path: Path) -> None:
    found = measure(tmp_path, faults=8, seed=1, dvc=False)
    assert [each for each in found if not each.good] == []
    assert sum(each.injected for each in found) == 8


def test_every_output_has_a_reader_to_refuse_it() -> None:
    assert sorted(READERS) == sorted(name for stage in CHAIN for name in outputs(stage))


def test_from_so_many_on_every_stage_meets_every_fault() -> None:
    dealt = deal(110, Random(0), dvc=True)
    assert len(dealt) == 110 and {stage for stage, name in dealt if name == NAME} == set(CHAIN)
    met = {stage: {name for each, name in dealt if each == stage} for stage in CHAIN}
    assert {"killed", "killed in a write", "Ctrl-C"} <= set.intersection(*met.values())
    for kind in KINDS:
        assert {stage for stage in CHAIN if kind.name in met[stage]} == {
            stage for stage in CHAIN if not kind.impossible(stage)
        }
    assert dealt == deal(110, Random(0), dvc=True) != deal(110, Random(1), dvc=True)


def test_what_is_not_as_it_should_be_is_told() -> None:
    good = Found("bias", "killed", 0, injected=True, recovered=True)
    wrong = Found("bias", "Ctrl-C", 1, injected=True, recovered=True, wrong=["bias.json"])
    lost = Found("text", "Ctrl-C", 2, injected=True)
    rows = {line.split(" | ")[0]: line for line in table([wrong, good, lost]).splitlines()}
    assert rows["| stage"] == "| stage | killed | Ctrl-C | accepted but wrong | recovered |"
    assert rows["| bias"] == "| bias | 1 | 1 | 1 | 2 of 2 |" and rows["| text"] == "| text |  | 1 | 0 | 0 of 1 |"
    assert rows["| all"] == "| all | 1 | 2 | 1 | 2 of 3 |"
    assert problems([wrong, good, lost]) == ["bias, Ctrl-C, fault 2", "text, Ctrl-C, fault 3"]
    assert problems([good]) == []
