"""One method a file. A new one needs its file and its line below; CLI, JSON, cost and contract tests then find it."""

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
