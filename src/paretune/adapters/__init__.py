"""The adapters, one per file. A new one needs a file and a line below; CLI, JSON, cost and contract tests find it."""

from paretune.adapters.adapter import Adapter
from paretune.adapters.adaptformer import AdaptFormer
from paretune.adapters.dense import DenseAdapter
from paretune.adapters.full import Full
from paretune.adapters.lora import LoRA
from paretune.adapters.repadapter import RepAdapter
from paretune.adapters.vpt import VPT
from paretune.core.body import AdapterSettings

ADAPTERS: tuple[type[AdapterSettings], ...] = (
    AdaptFormer,
    Adapter,
    DenseAdapter,
    Full,
    LoRA,
    RepAdapter,
    VPT,
)
