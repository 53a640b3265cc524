"""Faults at random moments in every stage, and what is left afterwards:

python -m tests.faults.interrupt --faults 110 --seed 0    # prints a table: faults by stage

After each fault no artifact may lie at its place that its reader takes and that is not the reference run's, and
running the stage again must give the reference run's files, byte for byte, and leave no temporary file.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import click
import torch

from tests.faults import under_dvc
from tests.faults.kinds import KINDS, Fault
from tests.faults.laboratory import CHAIN, LIMIT_S, Laboratory, build, leftovers, outputs

TRIES = 10


@dataclass
class Found:
    """What came of one fault. ``wrong``: files that were accepted and should not have been; ``problems``: other
    things that should not be; ``skipped``: why there was no fault."""

    stage: str
    kind: str
    number: int
    injected: bool = False
    recovered: bool = False
    wrong: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    skipped: str = ""

    @property
    def good(self) -> bool:
        return bool(self.skipped) or (self.injected and self.recovered and not self.wrong and not self.problems)


def deal(faults: int, random: Random, dvc: bool) -> list[tuple[str, str]]:
    """(stage, kind) of each fault: a sample of all pairs, or all of them and the timed ones again."""
    pairs = [(stage, kind.name) for stage in CHAIN for kind in KINDS]
    pairs += [(stage, under_dvc.NAME) for stage in CHAIN] if dvc else []
    known = [pair for pair in pairs if not _kind(pair[1]).impossible(pair[0])]
    dealt = random.sample(known, min(faults, len(known)))
    timed = [(stage, kind.name) for stage in CHAIN for kind in KINDS[:3]]
    while len(dealt) < faults:
        dealt += random.sample(timed, min(len(timed), faults - len(dealt)))
    return dealt


def _kind(name: str) -> type[Fault]:
    return next((kind for kind in KINDS if kind.name == name), Fault)


def strike(lab: Laboratory, stage: str, name: str, number: int, seed: int) -> Found:
    """Inject one fault, look, and run the stage again; where it came too late, with another moment."""
    kind = _kind(name)
    found = Found(stage, name, number)
    found.skipped = kind.impossible(stage)
    for attempt in range(TRIES if not found.skipped else 0):
        fault = kind(lab, stage, Random(f"{seed} {stage} {name} {number} {attempt}"), attempt)
        work = lab.folder / "work"
        try:
            work.mkdir()
            with fault.around(work):
                _meet(lab, fault, work, found)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        if found.injected:
            break
    return found


def _meet(lab: Laboratory, fault: Fault, work: Path, found: Found) -> None:
    stage = fault.stage
    lab.fill(work, stage, fault.workers)
    fault.arm(work)
    child = lab.start(work, stage, fault.inside)
    in_time = fault.strike(child)
    ended = child.wait(LIMIT_S)
    found.injected = in_time and (ended.code in fault.codes or ended.code != 0)
    if not found.injected:
        return
    if ended.code not in fault.codes or "Traceback" in ended.said:
        found.problems.append(f"status {ended.code}: {ended.said[-2000:]}")
    if ended.code == 2 and not all(part in ended.said for part in fault.says):
        found.problems.append(f"said: {ended.said[-500:]}")
    if ended.code == 2 and leftovers(work):
        found.problems.append(f"left behind: {leftovers(work)}")
    found.wrong = lab.accepted_but_wrong(work, stage)
    fault.mend(work)
    again = lab.again(work, stage)
    left = lab.differing(work, outputs(stage)) + leftovers(work)
    found.recovered = again.code == 0 and not left
    if not found.recovered:
        found.problems.append(f"run again: status {again.code}, differing or left: {left}, {again.said[-2000:]}")


def measure(
    folder: Path, faults: int, seed: int, *, dvc: bool = True, say: Callable[[str], object] = lambda line: None
) -> list[Found]:
    """All of it, in an empty ``folder``."""
    torch.set_num_threads(1)
    lab = build(folder)
    found = []
    say(f"reference run: {sum(lab.seconds.values()):.0f} s")
    project = under_dvc.project(lab) if dvc else None
    for number, (stage, name) in enumerate(deal(faults, Random(seed), dvc)):
        start = time.monotonic()
        if name == under_dvc.NAME:
            assert project is not None
            each = Found(stage, name, number, True)
            each.wrong, each.problems = under_dvc.strike(lab, project, stage, Random(f"{seed} {stage} {number}"))
            each.recovered = not each.problems
        else:
            each = strike(lab, stage, name, number, seed)
        found.append(each)
        late = "" if each.injected else "came too late"
        state = each.skipped or ("as it should be" if each.good else f"{late} {each.wrong} {each.problems}")
        say(f"{number + 1:4} {stage:14} {name:18} {time.monotonic() - start:5.1f} s  {state}")
    return found


def table(found: list[Found]) -> str:
    """Stages and kinds: how many faults came in time, and what came of them."""
    kinds = list(dict.fromkeys(each.kind for each in sorted(found, key=lambda each: _order(each.kind))))
    lines = [
        f"| stage | {' | '.join(kinds)} | accepted but wrong | recovered |",
        f"|---|{'---|' * len(kinds)}---|---|",
    ]
    for stage in [*CHAIN, "all"]:
        here = [each for each in found if stage in (each.stage, "all")]
        counts = [str(sum(each.injected for each in here if each.kind == kind) or "") for kind in kinds]
        injected = sum(each.injected for each in here)
        wrong = sum(bool(each.wrong) for each in here)
        recovered = sum(each.recovered for each in here)
        lines.append(f"| {stage} | {' | '.join(counts)} | {wrong} | {recovered} of {injected} |")
    return "\n".join(lines)


def _order(kind: str) -> int:
    names = [each.name for each in KINDS]
    return names.index(kind) if kind in names else len(names)


def problems(found: list[Found]) -> list[str]:
    """Describe the faults that were not as they should be, and the kinds that this machine cannot inject."""
    bad = [f"{each.stage}, {each.kind}, fault {each.number + 1}" for each in found if not each.good]
    missing = sorted({f"{each.kind}: not injected here, {each.skipped}" for each in found if each.skipped})
    return bad + missing


@click.command()
@click.option("--faults", default=110, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--dvc/--no-dvc", default=True, help="Also below `dvc repro`, which takes longer.")
def main(faults: int, seed: int, dvc: bool) -> None:
    """Inject faults into every stage; exit status 1 if one was not as it should be."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), faults, seed, dvc=dvc, say=lambda line: click.echo(line))
    click.echo(table(found))
    for problem in problems(found):
        click.echo(problem)
    raise SystemExit(any(not each.good for each in found))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
