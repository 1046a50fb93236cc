"""The training objective: the task's loss plus the losses of the methods."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paretune.core.method import Run
from paretune.core.model import Adapted
from paretune.core.reduction import full_precision, widened
from paretune.training.tasks import kind_of


class Objective(nn.Module):
    """A model and its losses in one module, so that wrappers for training (DistributedDataParallel, autocast) include
    both. `criterion`: (outputs, targets) -> scalar.

    Example for your own training loop:

        objective = Objective(model, nn.CrossEntropyLoss())
        sum(objective(images, labels).values()).backward()
    """

    def __init__(self, model: Adapted, criterion: nn.Module):
        super().__init__()
        self.model, self.criterion, self.divergence = model, criterion, kind_of(model).divergence

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W), targets (B,) or (B, C) -> {name: scalar}, to be summed: the criterion as "loss", and the
        losses of the methods. Losses of the same name are added."""
        run, methods = self.model.run(images), list(self.model.methods())
        # After the model's own forward: inside of autocast older versions of torch keep the weights that a forward
        # without a gradient casts first (pytorch issue 112583), and the model would not train.
        teacher = self._teacher(images) if any(method.needs_teacher for method in methods) else None
        with full_precision(run.logits):
            losses = {"loss": self.criterion(widened(run.logits), targets)}
            for method in methods:
                for name, loss in method.losses(run, teacher, self.divergence).items():
                    losses[name] = losses[name] + loss if name in losses else loss
            return losses

    @torch.no_grad()
    def _teacher(self, images: Tensor) -> Run:
        training = self.model.training
        self.model.eval()
        try:
            return self.model.run(images, reduced=False)
        finally:
            self.model.train(training)
