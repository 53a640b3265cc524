"""Tables of a study: mean and standard deviation over seeds, as CSV and as Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from studies.measure import Finding

TITLES = {
    "result": "result, test",
    "gain": "gain, by seed",
    "other_result": "result, other photos",
    "views_per_image": "views an image",
    "train_zero_shot": "labels: whole image",
    "train_local_raw": "labels: best view",
    "train_aggregated_raw": "labels: both, raw",
    "train_aggregated_label": "labels: final",
    "none_true": "images without a class, %",
    "none_found": "found, %",
    "none_precision": "found ones that are, %",
    "none_recall": "of those found, %",
    "none_labels": "labels on such an image",
    "test_zero_shot": "CLIP, test",
    "test_head": "head, test",
    "test_warmup": "warm-up",
    "test_early_stop": "early stop",
    "test_last": "last epoch",
    "test_average": "average",
}
"""The shown columns in order, and their titles; mAP in % except for views and background images."""


@dataclass(frozen=True)
class Spread:
    """Mean and (sample) standard deviation over ``count`` seeds; NaN if there are too few seeds."""

    mean: float
    deviation: float
    count: int

    def __str__(self) -> str:
        if self.count == 0:
            return ""
        return f"{self.mean:.1f}" + (f" ± {self.deviation:.1f}" if self.count > 1 else "")


def spread(values: Iterable[float]) -> Spread:
    """Return the spread of the ``values`` that are not NaN."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Spread(math.nan, math.nan, 0)
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else math.nan, len(known))


def paired(findings: Sequence[Finding]) -> list[Finding]:
    """Add ``gain`` to each finding but those of the first variant: its result minus the first's of the same seed."""
    first = {each.seed: each.means["result"] for each in findings if each.variant == findings[0].variant}
    return [
        each
        if each.variant == findings[0].variant or each.seed not in first
        else replace(each, means=each.means | {"gain": each.means["result"] - first[each.seed]})
        for each in findings
    ]


def means(findings: Sequence[Finding]) -> dict[str, dict[str, Spread]]:
    """Return variant -> column -> spread over its seeds; columns in the order of `TITLES`."""
    columns = [name for name in TITLES if any(name in finding.means for finding in findings)]
    return {
        variant: {name: spread(finding.means.get(name, math.nan) for finding in part) for name in columns}
        for variant, part in _by_variant(findings).items()
    }


def classes(findings: Sequence[Finding]) -> dict[str, dict[str, Spread]]:
    """Return class -> variant -> spread of its AP."""
    names = list(dict.fromkeys(name for finding in findings for name in finding.per_class))
    groups = _by_variant(findings)
    return {
        name: {
            variant: spread(finding.per_class.get(name, math.nan) for finding in part)
            for variant, part in groups.items()
        }
        for name in names
    }


def _by_variant(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.variant, []).append(finding)
    return groups


def run_rows(findings: Sequence[Finding]) -> list[dict[str, str | float | int]]:
    """Return the rows of ``runs.csv``: one per run, all measures with all digits."""
    columns = list(dict.fromkeys(name for finding in findings for name in finding.means))
    rows: list[dict[str, str | float | int]] = []
    for finding in findings:
        row: dict[str, str | float | int] = {"variant": finding.variant, "seed": finding.seed}
        rows.append(row | {name: finding.means.get(name, "") for name in columns})
    return rows


def table_rows(findings: Sequence[Finding], paper: Mapping[str, Mapping[str, float]]) -> list[dict[str, str | float]]:
    """Return the rows of ``table.csv``: mean and standard deviation of each shown column, the paper's mAP."""
    seeds = {variant: len(part) for variant, part in _by_variant(findings).items()}
    rows: list[dict[str, str | float]] = []
    for variant, cells in means(findings).items():
        row: dict[str, str | float] = {"variant": variant, "seeds": seeds[variant]}
        for name, cell in cells.items():
            row[name] = _number(cell.mean)
            row[f"{name}_std"] = _number(cell.deviation)
        rows.append(row | {"paper": paper.get(variant, {}).get("mean", "")})
    return rows


def class_rows(findings: Sequence[Finding], paper: Mapping[str, Mapping[str, float]]) -> list[dict[str, str | float]]:
    """Return the rows of ``per_class.csv``.

    They have for each variant mean, standard deviation, the difference to the first variant, and the paper's AP (or
    empty).
    """
    rows: list[dict[str, str | float]] = []
    for name, cells in classes(findings).items():
        row: dict[str, str | float] = {"class": name}
        first = next(iter(cells.values()))
        for variant, cell in cells.items():
            row |= {variant: _number(cell.mean), f"{variant}_std": _number(cell.deviation)}
            row[f"{variant}_against_first"] = _number(cell.mean - first.mean)
            row[f"{variant}_paper"] = paper.get(variant, {}).get(name, "")
        rows.append(row)
    return rows


def _number(value: float) -> str | float:
    return "" if math.isnan(value) else round(value, 3)


def markdown(title: str, axis: str, findings: Sequence[Finding], paper: Mapping[str, Mapping[str, float]]) -> str:
    """Return ``table.md``: the means, then the classes with differences to the first variant.

    ``axis``: the swept parameter, or empty.
    """
    rows = means(findings)
    columns = [name for name in next(iter(rows.values())) if any(cells[name].count for cells in rows.values())]
    head = [axis, *(TITLES[name] for name in columns), *(["paper"] if paper else [])]
    body = [
        [variant, *(str(cells[name]) for name in columns), *([_plain(paper, variant, "mean")] if paper else [])]
        for variant, cells in rows.items()
    ]
    seeds = max(len(part) for part in _by_variant(findings).values())
    note = f"mAP in %, mean ± standard deviation of {seeds} seeds." if seeds > 1 else "mAP in %, one seed."
    return f"# {title}\n\n{note}\n\n{_table(head, body)}{_class_table(findings, paper)}"


def _class_table(findings: Sequence[Finding], paper: Mapping[str, Mapping[str, float]]) -> str:
    rows = classes(findings)
    if not rows:
        return ""
    variants = list(next(iter(rows.values())))
    quoted = [variant for variant in variants if len(paper.get(variant, {})) > 1]
    head = ["class", *variants, *(f"{variant}, paper" for variant in quoted)]
    body = []
    for name, cells in rows.items():
        first = cells[variants[0]]
        gains = [_with_difference(cells[variant], first) for variant in variants[1:]]
        body.append([name, str(first), *gains, *(_plain(paper, variant, name) for variant in quoted)])
    note = f"AP in % of each class; in brackets the difference to {variants[0]}."
    return f"\n{note}\n\n{_table(head, body)}"


def _with_difference(cell: Spread, first: Spread) -> str:
    return f"{cell} ({cell.mean - first.mean:+.1f})" if cell.count and first.count else str(cell)


def _plain(paper: Mapping[str, Mapping[str, float]], variant: str, name: str) -> str:
    value = paper.get(variant, {}).get(name)
    return "" if value is None else f"{value:.1f}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"
