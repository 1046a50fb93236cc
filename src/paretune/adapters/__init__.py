"""One method a file. A new one needs its file and its line below; CLI, JSON, cost and contract tests then find it."""

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
