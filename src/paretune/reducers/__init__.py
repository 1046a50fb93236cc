"""The reducers, one per file. A new one needs a file and a line below; CLI, JSON, cost and contract tests find it."""

from paretune.core.method import ReducerSettings
from paretune.reducers.dynamicvit import DynamicViT
from paretune.reducers.evit import EViT
from paretune.reducers.fpet import FPET
from paretune.reducers.pool import Pool
from paretune.reducers.tome import ToMe

REDUCERS: tuple[type[ReducerSettings], ...] = (
    DynamicViT,
    EViT,
    FPET,
    Pool,
    ToMe,
)
