"""The average of a network's past weights, which labels images during the training and is what predicts after it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, distributed, nn
from typing_extensions import Self

from wrp.io.together import processes
from wrp.selftraining.student import StudentModule


@torch.no_grad()
def update_average(average: nn.Module, student: nn.Module, decay: float, buffers: bool = False) -> None:
    """Update the average of a network's weights in place: t ← decay · t + (1 - decay) · s.

    Statistics of batch normalisation are means over all processes of a training: otherwise, each process would label
    with another average, and the checkpoint would hold that of the first.

    Args:
        average: The network that holds the averaged weights t.
        student: A network of the same structure, with the current weights s.
        decay: In [0, 1].
        buffers: Whether buffers of floating point, such as the statistics of batch normalisation, are averaged like
            weights; otherwise they are copied, as whole numbers always are.

    Example:
        >>> average, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> average.weight.data.fill_(0.0), student.weight.data.fill_(1.0)
        (tensor([[0.]]), tensor([[1.]]))
        >>> update_average(average, student, decay=0.75)
        >>> average.weight.item()
        0.25
    """
    for past, now in zip(average.parameters(), student.parameters(), strict=True):
        past.mul_(decay).add_(now, alpha=1 - decay)
    for kept, new in zip(average.buffers(), student.buffers(), strict=True):
        if buffers and kept.is_floating_point():
            kept.lerp_(new, 1 - decay)  # exact where both are equal, such as the statistics of the images
        else:
            kept.copy_(new)
    statistics = [buffer for name, buffer in average.named_buffers() if name.endswith(("running_mean", "running_var"))]
    if processes()[0] > 1 and statistics:
        means = torch.cat([buffer.flatten() for buffer in statistics])
        distributed.all_reduce(means)
        parts = (means / processes()[0]).split([buffer.numel() for buffer in statistics])
        for buffer, mean in zip(statistics, parts, strict=True):
            buffer.copy_(mean.view_as(buffer))


class AveragedModule(StudentModule):
    """A student that keeps the average of its past weights, which makes predictions; subclasses set its decay.

    All arguments are those of :class:`~wrp.selftraining.student.StudentModule`.

    Attributes:
        average: The network with the averaged weights, in evaluation mode; it is not trained itself.
        averages_buffers: Whether the statistics of batch normalisation are averaged, too, see :func:`update_average`.

    Example:
        >>> from wrp.options import NetworkArgs
        >>> class Steady(AveragedModule):
        ...     def decay(self) -> float:
        ...         return 0.99
        >>> module = Steady(3, NetworkArgs("FPN", "tu-regnetx_002"))
        >>> module.inference_model is module.average, module.average.training
        (True, False)
    """

    averages_buffers = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.average = copy.deepcopy(self.net).requires_grad_(False).eval()

    def decay(self) -> float:
        """Return the decay of the average in this step: the ratio of its past, in [0, 1]."""
        raise NotImplementedError

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the average after each step, before any callback saves it."""
        super().optimizer_step(*args, **kwargs)
        update_average(self.average, self.net, self.decay(), self.averages_buffers)

    @property
    def inference_model(self) -> nn.Module:
        """The average, which makes predictions."""
        return self.average

    def train(self, mode: bool = True) -> Self:
        """Set training mode; the average stays in evaluation mode."""
        super().train(mode)
        if hasattr(self, "average"):
            self.average.eval()
        return self

    def forward(self, images: Tensor) -> Any:
        """Compute the logits of the network; in evaluation, those of its average, the inference model."""
        images = images.to(self.dtype)
        return self.net(images) if self.training else self.average(images)
