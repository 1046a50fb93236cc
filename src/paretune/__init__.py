"""paretune: adapt pretrained Vision Transformers with few trained parameters and fewer tokens.

    model = paretune.adapt("vit_base_patch16_224", [paretune.LoRA(rank=8)], paretune.FPET(block=6), classes=100)

    paretune.train("photos", "run")
    paretune.evaluate("run", "photos", "test")
    paretune.predict("run", "new.jpg")

Names are imported on first use: `import paretune` alone is instant, which keeps `paretune --help` quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from paretune.version import __version__

if TYPE_CHECKING:
    from paretune.adapters import VPT, Adapter, AdaptFormer, DenseAdapter, Full, LoRA, RepAdapter
    from paretune.catalogue import Recipe, Schedule, recipe, recipes
    from paretune.checkpoint import load, save
    from paretune.core.model import Adapted, Run
    from paretune.deploy.artefact import Artefact
    from paretune.deploy.export import export
    from paretune.errors import UsageError
    from paretune.folding import merge
    from paretune.measure.cost import cost
    from paretune.plan import adapt
    from paretune.reducers import FPET, DynamicViT, EViT, Pool, ToMe
    from paretune.timing.bench import bench
    from paretune.verbs.evaluating import evaluate
    from paretune.verbs.predicting import predict
    from paretune.verbs.training import train

_HOME = {
    "adapt": "plan", "recipe": "catalogue", "recipes": "catalogue", "Recipe": "catalogue", "Schedule": "catalogue",
    "LoRA": "adapters", "AdaptFormer": "adapters", "DenseAdapter": "adapters", "Full": "adapters",
    "RepAdapter": "adapters", "Adapter": "adapters", "VPT": "adapters",
    "DynamicViT": "reducers", "EViT": "reducers", "FPET": "reducers", "Pool": "reducers", "ToMe": "reducers",
    "save": "checkpoint", "load": "checkpoint", "merge": "folding", "cost": "measure.cost", "bench": "timing.bench",
    "export": "deploy.export", "Artefact": "deploy.artefact",
    "train": "verbs.training", "evaluate": "verbs.evaluating", "predict": "verbs.predicting",
    "Adapted": "core.model", "Run": "core.model", "UsageError": "errors",
}  # fmt: skip
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'paretune' has no attribute '{name}'")
    return getattr(import_module(f"paretune.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
