"""Which HF PEFT configs are accepted from a saved folder.

A config of peft can do more than put tuners on layers: import modules, read files, run for hours, or match a regular
expression that never ends against every name of the model. The accepted fields are listed here; every other field must
have peft's own default.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

from paretune.core import peft_modules
from paretune.errors import UsageError, quoted
from paretune.schema import array, either, flag, number, one_of, table, text, verify, whole

PASS = "make the module yourself and pass it: load(folder, backbone=...)"
MOST_RANK = 4096
# Fields that have no effect here.
IGNORED = ("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
           "inference_mode", "runtime_config")  # fmt: skip
REPEATED = re.compile(r"(?<!\\)[*+?{]")
# A repeated group, look-around, a back-reference, a repetition of a repetition.
COSTLY = re.compile(r"\)[*+?{]|\(\?|\\\d|[*+?}][*+?{]")


def plain(value: Any, name: str) -> Iterator[str]:
    """A regular expression that is fast to match on any name: nothing costly, three repetitions at most."""
    yield from text(300, r"[\w.\-\\*+?|()^$\[\]]+")(value, name)
    if isinstance(value, str) and (COSTLY.search(value) or len(REPEATED.findall(value)) > 3 or not _compiles(value)):
        yield f"{name} is {quoted(value)}, which is not a plain pattern such as blocks\\.[0-5]\\.attn\\.qkv"


def _compiles(pattern: str) -> bool:
    try:
        return re.compile(pattern) is not None
    except (re.error, OverflowError, RecursionError):
        return False


_name = text(300, r"[\w.\-]+")
_places = either(array(_name, 1, 1000), plain)
_rank, _layer = whole(0, MOST_RANK), whole(0, 255)
FIELDS = {
    **dict.fromkeys(("target_modules", "exclude_modules", "feedforward_modules", "layers_pattern"), _places),
    "modules_to_save": array(_name, most=1000),
    **dict.fromkeys(("r", "rank", "oft_block_size", "boft_block_size", "boft_block_num", "n_frequency", "d_initial",
                     "num_cayley_neumann_terms"), either(_rank, number(0, 1))),
    **dict.fromkeys(("lora_alpha", "alpha", "eps", "scaling"), number(0, 1e6)),
    "projection_prng_key": whole(0, 2**63 - 1),
    **dict.fromkeys(("lora_dropout", "vera_dropout", "module_dropout", "rank_dropout"), number(0, 1)),
    **dict.fromkeys(("fan_in_fan_out", "use_rslora", "use_dora", "lora_bias", "save_projection", "coft", "block_share",
                     "use_cayley_neumann", "decompose_both", "rank_dropout_scale", "use_effective_conv2d",
                     "init_weights", "init_ia3_weights"), flag),
    "init_lora_weights": either(flag, one_of("gaussian", "orthogonal")),
    "bias": one_of("none", "all", "lora_only", "vera_only", "oft_only", "boft_only"),
    "decompose_factor": whole(-1, MOST_RANK),
    "layers_to_transform": either(_layer, array(_layer, most=256)),
    "rank_pattern": table(_rank, most=1000, key=plain),
    "alpha_pattern": table(number(0, 1e6), most=1000, key=plain),
}  # fmt: skip


def check(described: dict, where: str) -> None:
    """Raise UsageError, which begins with `where`, for a config of peft that is not accepted."""
    kinds, name = peft_modules.kinds(), described.get("peft_type")
    if not isinstance(name, str) or name not in kinds:
        raise UsageError(f"{where}, backbone.peft: peft_type is {quoted(name)}; known are {', '.join(kinds)}; {PASS}")
    fields = {field.name: field for field in dataclasses.fields(kinds[name])}
    if not described.get("target_modules"):
        raise UsageError(f"{where}, backbone.peft: target_modules is missing, so the layers are unknown; {PASS}")
    for entry, value in described.items():
        if entry in IGNORED or entry not in fields or value is None or value == _default(fields[entry]):
            continue
        if entry not in FIELDS:
            raise UsageError(
                f"{where}, backbone.peft: {entry[:100]} is {quoted(value)}, but only peft's default is accepted; {PASS}"
            )
        verify(value, lambda one, _, entry=entry: FIELDS[entry](one, entry), f"{where}, backbone.peft", PASS)


def _default(field: dataclasses.Field) -> Any:
    """A field's default as JSON has it."""
    made = None if field.default_factory is dataclasses.MISSING else field.default_factory()
    value = field.default if made is None else made
    value = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    try:
        return json.loads(json.dumps(sorted(value) if isinstance(value, set) else value))
    except TypeError:  # no default at all
        return None
