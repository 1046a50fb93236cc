"""The contestants of a benchmark: one backbone, once as timm runs it and once with every recipe.

        timm      the backbone's own forward: all tokens, fused attention; trains every tensor
        a recipe  the same backbone, the same weights, with the recipe's adapters and reducer
        a rival   the same backbone, the same weights, with the adapters of another library in timm's own forward

All have a new head of 100 classes and no stochastic depth, so that only the method differs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from paretune.backbone import EMBEDDED
from paretune.catalogue import Schedule
from paretune.core import anatomy
from paretune.core.memory import Memory
from paretune.core.model import Adapted
from paretune.folding import merge
from paretune.measure.cost import Cost, cost
from paretune.methods import Methods
from paretune.named_backbone import obtain
from paretune.plan import adapt
from paretune.timing.contestants import RIVALS, Contestant
from paretune.training.objective import Objective

TIMM = "timm"
CLASSES = 100
CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Terms:
    """The settings that all contestants share: backbone and side of its images (None: the backbone's own), device,
    number type, whether leaves are folded before the forward is timed, whether models are compiled, what training
    steps keep for the backward pass (`core.memory`)."""

    model: str
    image_size: int | None = None
    device: torch.device = CPU
    dtype: str = "float32"
    merged: bool = False
    compiled: bool = False
    memory: Memory = "full"

    @property
    def number(self) -> torch.dtype:
        """The number type as torch knows it."""
        return DTYPES[self.dtype]


def backbone(terms: Terms, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The backbone that all contestants start from: random weights of seed 0, or the embedded ones.

    Every attention is fused, whatever timm's setting, so that the baseline is as fast as possible.
    """
    torch.manual_seed(0)
    options = {} if terms.image_size is None else {"img_size": terms.image_size}
    module, _ = obtain(terms.model, terms.model == EMBEDDED, None, options)
    anatomy.check(module)
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = True
    return module.to(terms.device, dtype)


def build(base: nn.Module, one: Contestant) -> Adapted:
    """The model of a contestant. Frozen tensors share the memory of `base`.

    Raises UsageError if the methods do not fit the backbone.
    """
    torch.manual_seed(0)
    chosen, module = one.methods or Methods(), twin(base)
    if one.rival:
        RIVALS[one.rival](module, chosen)
        chosen = Methods()
    model = adapt(module, chosen.adapters, chosen.reducer, CLASSES).to(next(base.parameters()).dtype)
    return model.requires_grad_(True) if one.methods is None else model


def twin(base: nn.Module) -> nn.Module:
    """A copy of a module whose tensors share the memory of the original's."""
    memo = {id(p): nn.Parameter(p.data, p.requires_grad) for p in base.parameters()}
    return copy.deepcopy(base, memo | {id(b): b for b in base.buffers()})


def unshare(model: nn.Module) -> None:
    """Give every trained tensor its own memory, so that training one contestant does not change the others."""
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.clone()


def price(model: Adapted, merged: bool) -> Cost:
    """The cost of a contestant: trained parameters as built, multiply-accumulates as used in the timed forward."""
    built = cost(model)
    return replace(built, macs=cost(merge(model)).macs) if merged else built


def forward(model: Adapted, own: bool, terms: Terms) -> Callable[[Tensor], Tensor]:
    """The timed forward pass: evaluation mode, no gradients. `own`: timm's forward instead of paretune's."""
    model = merge(model) if terms.merged else model.eval()
    called = _compiled(model.backbone if own else model, terms)

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        return called(images)

    return run


class Plain(nn.Module):
    """The loss of training in timm's own forward: images, labels -> {"loss": cross-entropy}."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": cross_entropy(self.backbone(images), labels)}


class Step:
    """One step of training: forward, all losses, backward, AdamW on the tensors that train; no gradient is kept.

    Weights stay in float32; for another number type the forward runs under autocast. A method with a schedule behaves
    as in the last epoch.
    """

    def __init__(self, model: Adapted, own: bool, schedule: Schedule, terms: Terms):
        self.terms, model = terms, model.train()
        model.memory = terms.memory
        for method in model.methods():
            method.at_epoch(schedule.epochs - 1)
        self.objective = Plain(model.backbone) if own else Objective(model, nn.CrossEntropyLoss())
        self.called = _compiled(self.objective, terms)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=schedule.lr, weight_decay=schedule.weight_decay)
        self.scaler = torch.amp.GradScaler(terms.device.type, enabled=terms.number == torch.float16)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        with self.precision():
            losses = self.called(images, labels)
        first, *others = losses.values()
        self.scaler.scale(sum(others, first)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def precision(self) -> AbstractContextManager:
        """The number type of the forward."""
        enabled = self.terms.number != torch.float32
        return torch.autocast(self.terms.device.type, dtype=self.terms.number, enabled=enabled)

    def lend(self, moments: tuple[Tensor, Tensor]) -> None:
        """Let AdamW keep its moments in these flat tensors, which all contestants share.

        Their values do not affect the time, and separate moments for every fully trained backbone would take gigabytes.
        """
        start = 0
        for p in self.trained:
            first, second = (flat[start : start + p.numel()].view_as(p) for flat in moments)
            self.optimizer.state[p] = {"step": torch.zeros(()), "exp_avg": first, "exp_avg_sq": second}
            start += p.numel()


def moments(steps: list[Step]) -> tuple[Tensor, Tensor]:
    """Flat zeros, large enough for the first and second moments of any of these."""
    longest = max(sum(p.numel() for p in step.trained) for step in steps)
    first, second = (torch.zeros(longest, device=steps[0].terms.device) for _ in range(2))
    return first, second


def batch_of(size: int, terms: Terms, image_size: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Random images (size, 3, H, W) and labels, the same ones for every contestant."""
    g = torch.Generator().manual_seed(size)
    images = torch.randn(size, 3, *image_size, generator=g)
    labels = torch.randint(CLASSES, (size,), generator=g)
    return images.to(terms.device, dtype), labels.to(terms.device)


def _compiled(module: nn.Module, terms: Terms) -> Callable:
    return torch.compile(module, dynamic=False) if terms.compiled else module
