"""One step of training: loss, gradients and Adam; on a GPU as one CUDA graph (method sections 4 and 8)."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ccd.errors import CcdError, listed
from ccd.runtime.hardware import Precision, all_gather, check_precision, computing, rank_count, summed
from ccd.student.model import Student
from ccd.student.objectives import Objective, Outcome, Schedule, Views, lr_factor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Optimization:
    """Adam; the head's learning rate is ``lr * head_lr_multiplier``.

    ``schedule``: see `lr_factor`; ``cosine`` needs ``steps_per_epoch``. ``ema_decay``: see `MovingAverage`; None: none.
    ``frozen_backbone``: train the head alone; the backbone keeps its weights and its BatchNorm's running statistics.
    """

    epochs: int
    lr: float
    head_lr_multiplier: float
    precision: Precision = "fp32"
    schedule: Schedule = "constant"
    steps_per_epoch: int = 1
    ema_decay: float | None = None
    frozen_backbone: bool = False


class TrainingStep:
    """The student with its optimizer; a call is one step of training.

    Raises:
        CcdError: the precision does not fit the device.
    """

    def __init__(
        self, student: Student, objective: Objective, optimization: Optimization, device: torch.device
    ) -> None:
        check_precision(device, optimization.precision)
        student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if optimization.frozen_backbone:
            student.backbone.requires_grad_(False)
        self.student, self.network = over_ranks(student, device)
        self.objective = objective
        self.device = device
        self.optimization = optimization
        self.scaler = torch.amp.GradScaler(device.type, enabled=optimization.precision == "fp16")
        on_gpu = device.type == "cuda"
        lrs = (optimization.lr, optimization.lr * optimization.head_lr_multiplier)
        # on a GPU the rates are tensors, which a captured step reads anew
        self._lrs = [torch.tensor(lr, device=device) if on_gpu else lr for lr in lrs]
        self._base_lrs = lrs
        parameters = (student.backbone.parameters(), student.head.parameters())
        groups = [{"params": list(part), "lr": lr} for part, lr in zip(parameters, self._lrs, strict=True)]
        self.optimizer = torch.optim.Adam(groups, fused=on_gpu or None, capturable=on_gpu)
        self.ema = None if optimization.ema_decay is None else MovingAverage(self.student, optimization.ema_decay)
        self.parts: dict[str, Any] = {"student": self.student, "optimizer": self.optimizer, "scaler": self.scaler}
        if self.ema is not None:
            self.parts["ema"] = self.ema
        # the scaler of fp16 looks at the gradients on the CPU, and ranks talk to each other
        self._captured = CapturedStep(self.run, device) if on_gpu and optimization.precision != "fp16" else None
        if rank_count() > 1:
            self._captured = None

    def schedule(self, epoch: int, index: int) -> None:
        """Set the learning rates of step ``index`` of ``epoch`` (both from 0)."""
        optimization = self.optimization
        step = epoch * optimization.steps_per_epoch + index
        factor = lr_factor(optimization.schedule, step / (optimization.epochs * optimization.steps_per_epoch))
        for group, held, base in zip(self.optimizer.param_groups, self._lrs, self._base_lrs, strict=True):
            group["lr"] = held.fill_(factor * base) if isinstance(held, Tensor) else factor * base

    def train_mode(self, batch_images: int) -> None:
        """Set the layers' modes for batches of so many images; one image has no statistics for BatchNorm."""
        self.student.train()
        if self.optimization.frozen_backbone:
            self.student.backbone.eval()
        if batch_images == 1:
            for layer in self.student.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()

    def __call__(self, views: Views, weight: float = 1.0) -> Outcome:
        """Do one step; on a GPU the next one overwrites the outcome.

        ``weight``: of this rank's loss; ranks average their gradients, and may hold unequal parts of the batch.
        """
        outcome = self.run(views, weight) if self._captured is None else self._captured(views)
        if self.ema is not None:
            self.ema.update(self.student)
        return outcome

    def run(self, views: Views, weight: float = 1.0) -> Outcome:
        """Do one step kernel by kernel, without the moving average."""
        precision = self.optimization.precision
        self.optimizer.zero_grad(set_to_none=True)
        with computing(self.device, precision):
            outcome = self.objective(self.network, views)
        with computing(self.device, "tf32" if precision == "tf32" else "fp32"):
            torch.autograd.backward(self.scaler.scale(weight * outcome.loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return outcome


class CapturedStep:
    """A step on a GPU as one CUDA graph: launched at once, where its kernels one by one keep the GPU waiting.

    The first `WARM_UPS` steps run as they are, as capturing needs; so do batches of other shapes than the first, and
    all steps where capturing fails, which is said once.
    """

    WARM_UPS = 3

    def __init__(self, step: Callable[[Views], Outcome], device: torch.device) -> None:
        self._step = step
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._shapes: list[torch.Size] | None = None
        self._warm_ups = 0
        self._failed = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._views: list[Tensor] = []
        self._outcome: Outcome | None = None

    def __call__(self, views: Views) -> Outcome:
        """Do one step; the next call overwrites the outcome."""
        with torch.cuda.device(self._device):  # what is captured is the work of the current one
            return self._run(views)

    def _run(self, views: Views) -> Outcome:
        given = [values for values in views if values is not None]
        shapes = [values.shape for values in given]
        self._shapes = self._shapes or shapes
        if self._failed or shapes != self._shapes:
            return self._step(views)
        if self._warm_ups < self.WARM_UPS:
            self._warm_ups += 1
            return self._aside(views)
        if self._outcome is None:
            self._capture(views)
        if self._outcome is None or self._graph is None:
            return self._step(views)
        for held, values in zip(self._views, given, strict=True):
            held.copy_(values)
        self._graph.replay()
        return self._outcome

    def _aside(self, views: Views) -> Outcome:
        """Do one step on a stream of its own, so that nothing of it is bound to the usual one."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            outcome = self._step(views)
        torch.cuda.current_stream().wait_stream(self._stream)
        return outcome

    def _capture(self, views: Views) -> None:
        strong = None if views.strong is None else views.strong.clone()
        held = Views(views.weak.clone(), views.labels.clone(), strong, views.targets.clone())
        graph = torch.cuda.CUDAGraph()
        try:
            # the thread that pins the next batches' memory may ask the driver for more meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outcome = self._step(held)
        except RuntimeError as error:
            self._failed = True
            reason = " ".join(str(error).split())[:200]
            print(f"note: the training step runs without a CUDA graph, which is slower ({reason})", file=sys.stderr)
            return
        self._graph = graph
        self._views = [values for values in held if values is not None]
        self._outcome = outcome


def cpu_weights(model: nn.Module) -> Weights:
    """Copy the state dict to the CPU, out of reach of later training steps."""
    return {key: value.detach().to("cpu", copy=True).contiguous() for key, value in model.state_dict().items()}


def check_weights(weights: Weights, epoch: int) -> None:
    """Check the weights after an epoch: no loss follows the gradients of its last step. Raises CcdError."""
    broken = [name for name, values in weights.items() if not torch.isfinite(values).all()]
    if broken:
        raise CcdError(
            f"after epoch {epoch + 1} {len(broken)} of the student's tensors hold NaN or Inf ({listed(broken, 3)}); "
            "lower the learning rate, or use fp32"
        )


def over_ranks(student: Student, device: torch.device) -> tuple[Student, Callable[..., tuple[Tensor, Tensor]]]:
    """Return the student to train and the function for its forward pass; with one process both are ``student``.

    Its BatchNorm layers are replaced in place by ones that see the batch of all ranks; keys and weights stay.
    """
    if rank_count() == 1:
        return student, student
    norms = [(name, layer) for name, layer in student.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    activations = {name: layer.act for name, layer in norms if hasattr(layer, "act")}  # timm's layers hold them
    if device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)  # type: ignore[no-untyped-call]
    else:
        share_batch_norm(student)
    for name, act in activations.items():
        student.get_submodule(name).register_forward_hook(lambda layer, args, output, act=act: act(output))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer versions of torch rename `broadcast_buffers`
        devices = [device] if device.type == "cuda" else None
        return student, DistributedDataParallel(student, device_ids=devices, broadcast_buffers=False)


def share_batch_norm(module: nn.Module) -> None:
    """Replace BatchNorm layers in place by ones that see the batch of all ranks; keys and weights stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            layer = SharedBatchNorm2d(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            layer.load_state_dict(child.state_dict())
            setattr(module, name, layer)
        else:
            share_batch_norm(child)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm with statistics over all ranks' images in training, for the CPU, where torch has none."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (b, C, h, w); b may be 0 on a rank, if not on all."""
        if not self.training or self.running_mean is None or self.running_var is None or self.momentum is None:
            return super().forward(x)
        values = x.float()
        count = float(sum(all_gather(values.numel() // values.shape[1])))  # per channel
        mean = summed(values.sum(dim=(0, 2, 3))) / count  # (C,)
        centred = values - mean.view(1, -1, 1, 1)
        variance = summed(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        normal = centred * (variance + self.eps).rsqrt().view(1, -1, 1, 1)
        if self.affine:
            normal = normal * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normal.to(x.dtype)


class MovingAverage:
    """Exponential moving average of a model's weights and BatchNorm statistics, updated after every step.

    ``w <- d w + (1 - d) w_t`` with ``d = min(decay, (1 + t) / (10 + t))`` at step t, so that the start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._steps = torch.zeros((), dtype=torch.int64)
        self._weights = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step. Integers are taken as they are."""
        self._steps += 1
        steps = int(self._steps)
        keep = min(self._decay, (1 + steps) / (10 + steps))
        state = model.state_dict()
        floats = [key for key, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self._weights[key] for key in floats], [state[key] for key in floats], 1 - keep)
        for key in state.keys() - set(floats):
            self._weights[key].copy_(state[key])

    @property
    def weights(self) -> Weights:
        """A copy of the average, on the CPU."""
        return {key: value.to("cpu", copy=True).contiguous() for key, value in self._weights.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of steps."""
        return {"steps": self._steps, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what `state_dict` returned."""
        self._steps.copy_(state_dict["steps"])
        for key, value in state_dict["weights"].items():
            self._weights[key].copy_(value)
