"""Copies of a student's weights, and their uniform average over epochs (stochastic weight averaging)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

Weights = dict[str, Tensor]


def cpu_weights(model: nn.Module) -> Weights:
    """A copy of the state dict on the CPU that later training steps do not touch."""
    return {key: value.detach().to("cpu", copy=True).contiguous() for key, value in model.state_dict().items()}


class WeightAverage:
    """Running uniform mean of state dicts; BatchNorm statistics are averaged too, integers are taken from the last."""

    def __init__(self, count: int = 0, weights: Weights | None = None) -> None:
        self.count = count
        self.weights: Weights = weights or {}

    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Add one state dict (CPU), which is not modified."""
        self.count += 1
        for key, value in weights.items():
            if key in self.weights and value.is_floating_point():
                self.weights[key].lerp_(value, 1 / self.count)
            else:
                self.weights[key] = value.clone()
