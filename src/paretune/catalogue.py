"""The training schedule, and the recipes: named combinations of adapters, a reducer and a schedule."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from paretune.adapters import VPT, Adapter, AdaptFormer, DenseAdapter, Full, LoRA, RepAdapter
from paretune.core.body import AdapterSettings
from paretune.core.method import ReducerSettings
from paretune.errors import UsageError, plain, unknown
from paretune.methods import Methods
from paretune.reducers import FPET, DynamicViT, EViT, ToMe


@dataclass(frozen=True)
class Schedule:
    """How to train: AdamW on the trained tensors, with linear warm-up and a cosine schedule."""

    epochs: int = 100
    """passes over the training images"""
    batch_size: int = 64
    """images per update"""
    lr: float = 1e-3
    """peak learning rate"""
    weight_decay: float = 1e-4
    """weight decay of every trained tensor"""
    warmup_epochs: float = 10
    """epochs of linear warm-up"""
    warmup_lr: float = 1e-6
    """learning rate at the start"""
    min_lr: float = 1e-5
    """learning rate at the end"""
    drop_path: float = 0.0
    """stochastic depth of the backbone; the rate grows linearly to this value at the last block"""
    label_smoothing: float = 0.0
    """label smoothing of the cross-entropy"""
    augment: Literal["none", "flip", "crop", "randaugment"] = "none"
    """augmentation of the training images: none = resize only, flip = also random flips, crop = random crops and
    flips, randaugment = the same and two random changes of colour, contrast, angle and the like"""
    mixup: float = 0.0
    """training images become mixtures of two, in shares from Beta(mixup, mixup); 0 = off, 0.2 to 0.8 are usual"""
    cutmix: float = 0.0
    """training images get a rectangle of another one, with its area from Beta(cutmix, cutmix); 0 = off, 1 is usual;
    with mixup too, every batch takes one of them"""
    class_weights: Literal["none", "auto"] = "none"
    """auto gives rare classes and labels a larger weight: images / (classes * images of the class) for a class,
    negatives / positives, limited to 0.01 to 100, for the positives of a label"""


@dataclass(frozen=True)
class Recipe:
    """A named combination of adapters, a reducer and a schedule."""

    name: str
    about: str
    adapters: tuple[AdapterSettings, ...] = ()
    reducer: ReducerSettings | None = None
    schedule: Schedule = field(default_factory=Schedule)

    @property
    def methods(self) -> Methods:
        """Its adapters and reducer as one object."""
        return Methods(self.adapters, self.reducer)


# Block positions are shares of the depth (the papers: blocks 3, 6, 9 and 6 of 12), so the recipes also fit ViT-L.
# The papers' VTAB settings: AdamW 1e-3, weight decay 1e-4, 100 epochs of which 10 warm-up, batch 64, no augmentation.
# FPET's code trains with stochastic depth 0.1 and feeds images without mean and std; paretune keeps the backbone's own
# normalisation, which is what the weights were made for.
_DROP_PATH = Schedule(drop_path=0.1)
# Complete data sets (Sparse-Tuning on CIFAR-100, SVHN and Food-101). Its learning rate and batch are not published.
_FULL_DATA = Schedule(warmup_epochs=20, warmup_lr=0.0, min_lr=0.0, weight_decay=0.0, augment="crop")
_ALL = (
    Recipe(
        "sparse-tuning",
        "Dense Adapters of width 32 + EViT keep 0.7 in blocks 3, 6, 9 of 12 (Sparse-Tuning)",
        (DenseAdapter(width=32),),
        EViT(keep=0.7),
    ),
    Recipe(
        "sparse-tuning-full-data",
        "the same with random crops and long warm-up, its setting for complete data sets",
        (DenseAdapter(width=32),),
        EViT(keep=0.7),
        _FULL_DATA,
    ),
    Recipe(
        "sparse-tuning-vtab",
        "the same at width 8, its setting for 1,000 images (VTAB-1K)",
        (DenseAdapter(width=8),),
        EViT(keep=0.7),
    ),
    Recipe(
        "sparse-tuning-tome",
        "Dense Adapters of width 8 + ToMe r=16, 10 of 196 patches are left",
        (DenseAdapter(width=8),),
        ToMe(r=16),
    ),
    Recipe(
        "sparse-tuning-dynamicvit",
        "Dense Adapters of width 32 + DynamicViT keep 0.7 in blocks 3, 6, 9 of 12 (Sparse-Tuning, Table IV)",
        (DenseAdapter(width=32),),
        DynamicViT(keep=0.7),
    ),
    Recipe(
        "dynamicvit-adaptformer",
        "AdaptFormer of width 8 + DynamicViT keep 0.7 in blocks 3, 6, 9 of 12 (Sparse-Tuning, Table IV)",
        (AdaptFormer(width=8, bias=True),),
        DynamicViT(keep=0.7),
    ),
    Recipe(
        "evit-adaptformer",
        "AdaptFormer of width 8 + EViT keep 0.7 in blocks 3, 6, 9 of 12 (Sparse-Tuning, Table IV)",
        (AdaptFormer(width=8),),
        EViT(keep=0.7),
        _DROP_PATH,
    ),
    Recipe(
        "tome-lora",
        "LoRA rank 8 on q and v + ToMe, a twentieth of the patches in every block (FPET, Table 1: 8 of 196)",
        (LoRA(rank=8),),
        ToMe(r=0.05),
        _DROP_PATH,
    ),
    Recipe("fpet-lora", "LoRA rank 8 on q and v + FPET in block 6 of 12", (LoRA(rank=8),), FPET(), _DROP_PATH),
    Recipe(
        "fpet-adaptformer",
        "AdaptFormer of width 8 + FPET in block 6 of 12",
        (AdaptFormer(width=8),),
        FPET(),
        _DROP_PATH,
    ),
    Recipe("lora", "LoRA rank 8 on q and v, all tokens", (LoRA(rank=8),), None, _DROP_PATH),
    Recipe("adaptformer", "AdaptFormer of width 8, all tokens", (AdaptFormer(width=8),), None, _DROP_PATH),
    Recipe("adapter", "Adapter of width 8 behind every MLP, all tokens", (Adapter(width=8),), None, _DROP_PATH),
    Recipe("vpt", "10 new prompts before every block, all tokens", (VPT(prompts=10),), None, _DROP_PATH),
    Recipe("fpet-repadapter", "RepAdapter of rank 8 + FPET in block 6 of 12", (RepAdapter(),), FPET(), _DROP_PATH),
    Recipe("repadapter", "RepAdapter of rank 8, all tokens", (RepAdapter(),), None, _DROP_PATH),
    Recipe(
        "fpet-bi-lora",
        "LoRA rank 32 on q and v, 1 bit a weight + FPET in block 6 of 12",
        (LoRA(rank=32, bits=1),),
        FPET(),
        _DROP_PATH,
    ),
    Recipe("bi-lora", "LoRA rank 32 on q and v, 1 bit a weight", (LoRA(rank=32, bits=1),), None, _DROP_PATH),
    Recipe(
        "fpet-bi-adaptformer",
        "AdaptFormer of width 32, 1 bit a weight + FPET in block 6 of 12",
        (AdaptFormer(width=32, bits=1),),
        FPET(),
        _DROP_PATH,
    ),
    Recipe(
        "bi-adaptformer", "AdaptFormer of width 32, 1 bit a weight", (AdaptFormer(width=32, bits=1),), None, _DROP_PATH
    ),
    Recipe("linear", "only the head trains"),
    Recipe("full", "everything trains", (Full(),), None, Schedule(lr=1e-4, drop_path=0.1)),
)
RECIPES = {one.name: one for one in _ALL}


def recipe(name: str) -> Recipe:
    """A recipe by name; "lora@8-11" is the recipe lora with its adapters in blocks 8 to 11 alone.

    Raises UsageError for an unknown one, with suggestions, and for one whose adapters are in all blocks by nature.
    """
    short, at, blocks = name.partition("@")
    if short not in RECIPES:
        raise unknown("recipe", short, list(RECIPES))
    return _in_blocks(RECIPES[short], name, blocks) if at else RECIPES[short]


def _in_blocks(whole: Recipe, name: str, blocks: str) -> Recipe:
    found = re.fullmatch(r"(\d{1,3})-(\d{1,3})", blocks)
    if not found or int(found[1]) > int(found[2]):
        raise UsageError(f"recipe '{plain(name)}': write the first and the last block, as in {whole.name}@8-11")
    if not whole.adapters or not all(hasattr(one, "blocks") for one in whole.adapters):
        raise UsageError(f"recipe {whole.name} has no adapter that can be put in some blocks only")
    chosen = tuple(range(int(found[1]), int(found[2]) + 1))
    adapters = tuple(replace(one, blocks=chosen) for one in whole.adapters)
    return replace(whole, name=name, about=f"{whole.about}; adapters in blocks {blocks} only", adapters=adapters)


def in_blocks(whole: Recipe, first: int, depth: int | None = None) -> Recipe | None:
    """The recipe with its adapters from block `first` on; None if they cannot begin later than they do.

    depth: blocks of the backbone, if the recipe does not say itself in which of them its adapters are
    """
    if not whole.adapters or not all(hasattr(one, "blocks") for one in whole.adapters):
        return None
    adapters = []
    for one in whole.adapters:
        now = getattr(one, "blocks", None) or tuple(range(depth or 0))
        adapters.append((one, now, tuple(block for block in now if block >= first)))
    if any(not later or later == now for _, now, later in adapters):
        return None
    name = f"{whole.name.partition('@')[0]}@{first}-{max(later[-1] for _, _, later in adapters)}"
    return replace(whole, name=name, adapters=tuple(replace(one, blocks=later) for one, _, later in adapters))


def recipes() -> list[str]:
    """The names of all recipes."""
    return list(RECIPES)
