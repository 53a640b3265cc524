"""The training step: tensors in, tensors out, and nothing that waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ccd.errors import CcdError
from ccd.runtime.hardware import check_precision, computing, read_later, to_device
from ccd.student import fit
from ccd.student.fit import train
from ccd.student.model import StudentSpec, build_student
from ccd.student.objectives import LabelLoss, Objective, Outcome, Views, WeakView
from ccd.student.step import CapturedStep, Optimization, TrainingStep
from tests.toys.student import colour_patches, tiny_student

CPU = torch.device("cpu")
OBJECTIVES = {
    "warm-up": Objective(),
    "paper": Objective(1.0, 0.5),
    "remedies": Objective(1.0, 0.5, WeakView(0.4, 0.5), LabelLoss(1.0, 0.1), 2, 1.0),
}


def views_of(objective: Objective, images: int = 4, classes: int = 3) -> Views:
    pixels, targets = colour_patches(images, classes)
    return objective.views(pixels, targets, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2"])
def test_nothing_in_a_step_leaves_the_device(name: str, backbone: str) -> None:
    """What `torch.compile` takes as one graph reads no value of a tensor and makes none of a number on the way."""
    objective = OBJECTIVES[name]
    student = build_student(StudentSpec(backbone, ("a", "b", "c"), 3.0, 32), "none", seed=0).train()

    def step(views: Views) -> tuple[Tensor | None, ...]:
        outcome = objective(student, views)
        return outcome.loss, outcome.logits, outcome.targets

    views = views_of(objective)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    plain = step(views)
    student.load_state_dict(before)
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="eager")(views)
    for expected, found in zip(plain, compiled, strict=True):
        assert (expected is None) == (found is None)
        if expected is not None and found is not None:
            assert torch.equal(expected, found)


def test_a_step_that_reads_a_value_is_no_graph() -> None:
    """So the test above can fail."""

    def step(values: Tensor) -> Tensor:
        return values * float(values.sum().item() > 0) if values.sum() > 0 else values

    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(step, fullgraph=True, backend="eager")(torch.ones(2))


def test_augmenting_reads_no_value_of_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading one waits for a GPU's work; the order of the colour operations is drawn on the CPU."""
    read: list[str] = []
    for method in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__"):
        plain = getattr(Tensor, method)

        def watched(self: Tensor, *given: object, _name: str = method, _plain: object = plain) -> object:
            read.append(_name)
            return _plain(self, *given)  # type: ignore[operator]

        monkeypatch.setattr(Tensor, method, watched)
    views_of(Objective(1.0, 0.5, WeakView(0.4, 0.5)))
    assert read == ["tolist"]


@pytest.mark.parametrize("ahead", [0, 1])
def test_on_a_gpu_losses_are_read_when_the_next_step_is_on_its_way(ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "STEPS_AHEAD", {"cpu": ahead})
    pixels, targets = colour_patches(6)
    events: list[str] = []

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for index, rows in enumerate(torch.arange(6).split(2)):
            events.append(f"batch {index}")
            yield rows, pixels[rows]

    optimization = Optimization(1, 1e-3, 1.0)
    show = lambda epoch, step, loss: events.append(f"loss {step}")  # noqa: E731
    train(tiny_student(), batches, targets, Objective(), optimization=optimization, seed=0, device=CPU, on_step=show)
    late = ["batch 0", "batch 1", "loss 0", "batch 2", "loss 1", "loss 2"]
    assert events == (late if ahead else ["batch 0", "loss 0", "batch 1", "loss 1", "batch 2", "loss 2"])


def test_the_last_loss_of_an_epoch_is_checked_too() -> None:
    pixels, targets = colour_patches(4)
    targets[3] = float("nan")
    with pytest.raises(
        CcdError, match=r"nan in epoch 1, step 2 \(images: row 2, row 3; of the step before: row 0, row 1\)"
    ):
        train(
            tiny_student(),
            lambda epoch: [(rows, pixels[rows]) for rows in torch.arange(4).split(2)],
            targets,
            Objective(),
            optimization=Optimization(1, 1e-3, 1.0),
            seed=0,
            device=CPU,
        )


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_precisions_of_a_gpu_are_refused_on_a_cpu(precision: str) -> None:
    with pytest.raises(CcdError, match=f"precision {precision} needs a GPU, the device is cpu; use fp32 or bf16"):
        check_precision(CPU, precision)  # type: ignore[arg-type]
    with pytest.raises(CcdError, match="needs a GPU"):
        TrainingStep(tiny_student(), Objective(), Optimization(1, 1e-3, 1.0, precision), CPU)  # type: ignore[arg-type]


def test_tf32_is_allowed_inside_the_block_alone() -> None:
    flags = torch.backends.cuda.matmul
    flags.allow_tf32 = False
    with computing(torch.device("cuda"), "tf32"):
        assert flags.allow_tf32 and torch.backends.cudnn.allow_tf32
    assert not flags.allow_tf32 and not torch.backends.cudnn.allow_tf32
    with computing(CPU, "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with computing(CPU, "fp32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_on_a_cpu_copies_are_the_values_themselves() -> None:
    values = torch.rand(3)
    assert read_later(values)() is values and to_device(values, CPU) is values


class Graphs:
    """CUDA's graphs and streams on a CPU: work that is queued while one captures runs when that is replayed."""

    def __init__(self) -> None:
        self.devices: list[torch.device] = []  # the current ones
        self.modes: list[str] = []  # of every capture
        self.capturing: Graphs.Graph | None = None
        self.refuses = False

    class Graph:
        def __init__(self) -> None:
            self.work: list[Callable[[], object]] = []

        def replay(self) -> None:
            for work in self.work:
                work()

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        self.devices.append(device)
        yield
        self.devices.pop()

    @contextmanager
    def graph(self, graph: Graph, capture_error_mode: str = "global") -> Iterator[None]:
        self.modes.append(capture_error_mode)
        self.capturing = graph
        yield
        self.capturing = None
        if self.refuses:
            raise RuntimeError("operation not permitted\n when stream is capturing")

    def do(self, work: Callable[[], object]) -> None:
        """Queue work on the GPU."""
        assert self.devices == [torch.device("cuda:1")], "on another GPU than the student's"
        if self.capturing is None:
            work()
        else:
            self.capturing.work.append(work)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    graphs = Graphs()
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graphs.Graph)
    monkeypatch.setattr(torch.cuda, "graph", graphs.graph)
    monkeypatch.setattr(torch.cuda, "device", graphs.device)
    return graphs


def losses_of(graphs: Graphs, steps: int) -> tuple[list[float], list[float], int]:
    """Do steps on batches of 4, the last of 3, each with its own sum of pixels: the expected losses, the losses, and
    how often the step was run from Python."""
    runs = []

    def step(views: Views) -> Outcome:
        runs.append(1)
        loss = torch.zeros(())
        graphs.do(lambda: loss.copy_(views.weak.sum() + views.targets.sum()))
        return Outcome(loss, {}, views.targets)

    captured = CapturedStep(step, torch.device("cuda:1"))
    expected, found = [], []
    for number in range(steps):
        images = 3 if number == steps - 1 else 4
        pixels = torch.full((images, 3, 2, 2), float(number))
        targets = torch.full((images, 1), 0.5)
        found.append(captured(Views(pixels, targets, None, targets)).loss.item())
        expected.append(12.0 * images * number + 0.5 * images)
    return expected, found, len(runs)


def test_a_captured_step_sees_every_batch_and_runs_on_the_student_s_gpu(graphs: Graphs) -> None:
    """Three warm-ups, the capture, and the last batch, which is smaller, come from Python; the rest are replays."""
    expected, found, runs = losses_of(graphs, 9)
    assert found == expected and runs == 5
    assert graphs.modes == ["thread_local"], "the thread that pins memory may call the driver during a capture"


def test_after_a_capture_that_fails_every_step_runs_from_python(
    graphs: Graphs, capsys: pytest.CaptureFixture[str]
) -> None:
    graphs.refuses = True
    expected, found, runs = losses_of(graphs, 9)
    assert found == expected and runs == 10 and len(graphs.modes) == 1
    assert capsys.readouterr().err == (
        "note: the training step runs without a CUDA graph, which is slower "
        "(operation not permitted when stream is capturing)\n"
    )


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_captured_step_computes_what_the_same_steps_one_by_one_do(
    precision: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = torch.device("cuda")
    pixels, targets = colour_patches(60)

    def batches(epoch: int) -> list[tuple[Tensor, Tensor]]:
        return [(rows, pixels[rows]) for rows in torch.arange(60).split(8)]  # the last one is smaller

    def trained() -> dict[str, Tensor]:
        student = build_student(StudentSpec("resnet18", ("a", "b", "c"), 3.0, 32), "none", seed=0)
        optimization = Optimization(3, 1e-3, 10.0, precision, "cosine", 8)  # type: ignore[arg-type]
        objective = Objective(1.0, 0.5)
        return train(student, batches, targets, objective, optimization=optimization, seed=0, device=device).last

    captured = trained()
    assert "without a CUDA graph" not in capsys.readouterr().err
    monkeypatch.setattr(CapturedStep, "WARM_UPS", 10**9)
    eager = trained()
    for key, value in eager.items():
        torch.testing.assert_close(captured[key], value, atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@gpu
def test_where_capturing_fails_the_steps_run_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    class Reading(Objective):
        def __call__(self, student, views):  # type: ignore[no-untyped-def]
            outcome = super().__call__(student, views)
            outcome.loss.item()
            return outcome

    pixels, targets = colour_patches(60)
    result = train(
        build_student(StudentSpec("resnet18", ("a", "b", "c"), 3.0, 32), "none", seed=0),
        lambda epoch: [(rows, pixels[rows]) for rows in torch.arange(60).split(8)],
        targets,
        Reading(1.0, 0.5),
        optimization=Optimization(1, 1e-3, 10.0),
        seed=0,
        device=torch.device("cuda"),
    )
    assert capsys.readouterr().err.count("note: the training step runs without a CUDA graph") == 1
    assert all(torch.isfinite(value).all() for value in result.last.values())
