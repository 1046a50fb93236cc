"""The JSON formats that paretune reads back: their entries, with types and ranges.

Add every new entry of a format here too. Unknown entries are refused in files that decide what is built (configs,
options), and ignored in files that only report something (records, environments).
"""

from __future__ import annotations

from paretune.schema import (
    anything,
    array,
    either,
    flag,
    maybe,
    number,
    one_of,
    record,
    table,
    text,
    whole,
)

MOST_CLASSES = 250_000  # outputs of a head: enough for every data set, and the head stays below some gigabytes
MOST_ADAPTERS = 32
MOST_SIDE = 8192  # pixels
MOST_COUNT = 10**12

NAME = text(300)
PRINTABLE = r"[^\x00-\x1f\x7f-\x9f]*"
TITLE = text(300, PRINTABLE)  # a text in tables, without terminal escapes
HASH = text(64, r"[0-9a-f]{64}")
RATE = number(0, 1)
COUNT = whole(0, MOST_COUNT)
SEED = whole(0, 2**63 - 1)
SIDE = whole(1, MOST_SIDE)
SETTING = either(number(-1e9, 1e9), flag, maybe(text(200)), array(either(number(-1e9, 1e9), text(50)), most=1000))
METHOD = record({"kind": text(100)}, others=SETTING)
METHODS = {"adapters": array(METHOD, most=MOST_ADAPTERS), "reducer": maybe(METHOD)}
_TOLD_METHODS = {"adapters": array(record({}, others=SETTING), most=MOST_ADAPTERS),
                 "reducer": maybe(record({}, others=SETTING))}  # fmt: skip
TOLD = maybe(either(number(), flag, text(2000)))  # only shown to people
ENVIRONMENT = table(TOLD, most=100)

# The arguments of timm's ViT, DeiT and EVA classes that JSON can express. All others are refused, such as those that
# name files or allow missing weights.
_pair = either(SIDE, array(SIDE, 2, 2))
_few = whole(0, 1024)
_word = maybe(text(50, r"\w*"))
OPTIONS = {
    **dict.fromkeys(("img_size", "patch_size"), _pair),
    **dict.fromkeys(("ref_feat_shape",), maybe(_pair)),
    **dict.fromkeys(
        ("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"), RATE
    ),
    **dict.fromkeys(
        ("qkv_bias", "qkv_fused", "qk_norm", "scale_attn_norm", "scale_mlp_norm", "proj_bias", "class_token",
         "no_embed_class", "pre_norm", "final_norm", "pool_include_prefix", "dynamic_img_size", "dynamic_img_pad",
         "fix_init", "swiglu_mlp", "scale_mlp", "scale_attn_inner", "attn_only_layer_scale", "use_abs_pos_emb",
         "use_rot_pos_emb", "rope_rotate_half", "use_post_norm", "use_pre_transformer_norm"), flag
    ),
    **dict.fromkeys(("fc_norm", "use_fc_norm", "use_post_transformer_norm"), maybe(flag)),
    **dict.fromkeys(("pos_embed", "weight_init", "norm_layer", "act_layer", "embed_norm_layer", "attn_type",
                     "rope_type", "rope_grid_indexing"), _word),
    **dict.fromkeys(("init_values", "rope_grid_offset", "rope_temperature", "rope_shift_coords", "rope_jitter_coords",
                     "rope_rescale_coords", "head_init_scale"), maybe(number(-1e6, 1e6))),
    **dict.fromkeys(("attn_pool_mlp_ratio",), maybe(number(0, 64, above=True))),
    **dict.fromkeys(("reg_tokens", "num_reg_tokens", "swiglu_align_to"), _few),
    **dict.fromkeys(("num_kv_heads", "attn_pool_num_heads", "rope_mrope_section"), maybe(either(_few, array(_few)))),
    "in_chans": whole(1, 64),
    "num_classes": whole(0, MOST_CLASSES),
    "global_pool": one_of("", "token", "avg", "avgmax", "max", "map"),
    "embed_dim": whole(1, 16_384),
    "depth": whole(1, 256),
    "num_heads": whole(1, 1024),
    "mlp_ratio": number(0, 64, above=True),
}  # fmt: skip

PREPROCESSING = record(
    {
        "input_size": array(SIDE, 3, 3),
        "interpolation": one_of("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
        "mean": array(number(-1e6, 1e6), 3, 3),
        "std": array(number(1e-6, 1e6), 3, 3),
        "crop_pct": number(0, 1, above=True),
        "crop_mode": one_of("center", "squash", "border"),
    }
)

BACKBONE = record(
    {"name": maybe(NAME), "source": one_of("pretrained", "file", "random", "module")},
    {"options": table(anything, most=100, key=text(100)), "peft": maybe(table(anything, most=200, key=text(100)))},
)
CONFIG = record(
    {
        "library": one_of("paretune"),
        "format": one_of(2),
        "base_model_name_or_path": maybe(NAME),
        "backbone": BACKBONE,
        **METHODS,
        "classes": maybe(either(array(text(1000), 1, MOST_CLASSES), whole(1, MOST_CLASSES))),
        "preprocessing": PREPROCESSING,
        "packed": table(record({"bits": one_of(1, 2, 4, 8), "shape": array(whole(1, 2**20), 2, 2)})),
        "fingerprint": HASH,
    },
    {
        "task": NAME,
        "temperature": number(1e-3, 1e3),
        "training": anything,
        "versions": table(text(200), most=50),
        "cached_from": text(10_000),
    },
)

_data = record(
    {},
    {
        "path": text(10_000),
        "name": text(10_000),
        "split": NAME,
        "split_rule": maybe(record({}, {"val_share": RATE, "seed": SEED}, anything)),
        "images": COUNT,
        "fingerprint": text(200),
    },
    anything,
)
DATA = record({}, {"train": _data, "val": _data}, anything)
SCHEDULE = table(either(number(), text(100)), most=100)
SET = array(text(10_000))
_row = record({"epoch": whole(1, 10**9), "lr": number(0), "seconds": number(0)}, others=maybe(number()))
_scores = dict.fromkeys(("best_val_accuracy", "best_val_mean_average_precision", "best_val_r2"), maybe(number()))
RECORD = record(
    {"data": DATA, "schedule": SCHEDULE, "seed": SEED, "seconds": number(0), "best_epoch": whole(1, 10**9),
     "environment": ENVIRONMENT},
    {"recipe": NAME, "set": SET, "history": array(_row, 1, 10**6), **_scores},
    anything,
)  # fmt: skip
PLAN = record(
    {"minutes": number(0), "epochs": whole(1, 10**6), "first_block": maybe(whole(0, 256)), "depth": whole(1, 256),
     "seconds": number(0), "why": text(10_000)}
)  # fmt: skip
SETTINGS = record(
    {"schedule": SCHEDULE, "seed": SEED, "data": DATA},
    {"recipe": NAME, "set": SET, "choose": NAME, "memory": NAME, "command": SET, "plan": PLAN},
    anything,
)
FACTS = record(
    {"history": array(_row, 1, 10**6), "best_row": either(_row, record({})), "scaler": anything}, {"tensors": HASH}
)
TRIAL = record(
    {
        "settings": record({**METHODS, "schedule": SCHEDULE, "seed": SEED}, others=anything),
        "result": record(
            {"seed": SEED, "accuracy": maybe(RATE), "val_accuracy": RATE, "epoch": whole(1, 10**9),
             "seconds": number(0)},
            {"val_loss": maybe(number(0))},
        ),
    }
)  # fmt: skip

RESULT = record(
    {
        **dict.fromkeys(("suite", "task", "group", "recipe", "metric"), TITLE),
        "seed": SEED,
        "settings": record({**_TOLD_METHODS, "schedule": SCHEDULE}, others=anything),
        "test": number(-1e9, 1e9),
        "val": maybe(number(-1e9, 1e9)),
        "cost": record(dict.fromkeys(("trained", "trained_without_head", "macs", "tokens_last"), COUNT), others=TOLD),
        "seconds": number(0, 1e12),
        "environment": ENVIRONMENT,
        "date": text(10_000, PRINTABLE),
    },
    others=anything,
)

_cost = record(
    {**dict.fromkeys(("trained", "trained_without_head"), COUNT), "macs": whole(0, 10**18),
     "tokens": array(array(COUNT, 2, 2), 1)},
    others=anything,
)  # fmt: skip
_times = maybe(record({}, dict.fromkeys(("ms_per_image", "ratio", "median"), maybe(number(0, 1e12))), anything))
BENCH = record(
    {
        "kind": one_of("bench"),
        "version": whole(1, 1000),
        "model": TITLE,
        "image_size": array(SIDE, 2, 2),
        "dtype": TITLE,
        "baseline": TITLE,
        "rounds": COUNT,
        "complete": flag,
        "date": TITLE,
        "machine": ENVIRONMENT,
        "rows": array(
            record(
                {"recipe": TITLE, "batch": whole(1, 10**9), "settings": maybe(record(METHODS)), "cost": _cost,
                 "macs_ratio": maybe(number(0)), "wall_per_macs": maybe(number(0))},
                {"forward": _times, "step": _times, "memory": maybe(table(maybe(number(0)))),
                 "error": maybe(text(10_000))},
                anything,
            )
        ),
    },
    others=anything,
)  # fmt: skip
_pair_of_counts = array(COUNT, 2, 2)
ARTEFACT = record(
    {
        "kind": one_of("artefact"),
        "format": one_of(1),
        "runtime": one_of("onnx", "openvino", "torch"),
        "dtype": one_of("fp32", "bf16", "int8"),
        "task": one_of("multiclass", "multilabel", "regression"),
        "names": array(text(1000), 1, MOST_CLASSES),
        "preprocessing": PREPROCESSING,
        "batch": array(whole(1, 10**6), 2, 2),
        "tokens": array(_pair_of_counts, 1, 1000),
        "methods": record({}, {"adapters": anything, "reducer": anything}),
        "backbone": maybe(NAME),
        "fingerprint": HASH,
        "trained": HASH,
        "versions": table(text(200), most=50),
        "temperature": number(1e-6, 1e6),
        "deviation": maybe(array(number(0, 1e30), 1, MOST_CLASSES)),
        "kept_fp32": array(text(300)),
        "verdict": one_of("passed", "failed", "unchecked"),
    }
)
EXPORT = record(
    {
        "kind": one_of("export"),
        "version": whole(1, 1000),
        "verdict": one_of("passed", "failed"),
        "failures": array(text(1000)),
        "artefact": record({"runtime": TITLE, "dtype": TITLE, "backbone": maybe(NAME), "preprocessing": PREPROCESSING,
                            "tokens": array(_pair_of_counts, 1, 1000), "methods": record({}, others=anything)},
                           others=anything),
        "precision": TITLE,
        "bytes": COUNT,
        "pictures": record({"source": text(1000, PRINTABLE), "images": COUNT}, others=anything),
        "parity": array(record({"pictures": TITLE, "agreement": RATE, "same_patches": RATE}, others=anything)),
        "times": table(table(record({"ms_per_image": number(0)}, others=anything)), key=text(7, r"[0-9]+")),
        "environment": ENVIRONMENT,
    },
    others=anything,
)  # fmt: skip
DEMO = record(
    {
        "rows": array(
            record(
                {"method": TITLE, "accuracy": RATE, "images_per_second": number(0, above=True),
                 **dict.fromkeys(("trained", "trained_without_head", "file_bytes", "macs"), COUNT)},
                others=anything,
            )
        ),
        "seed": SEED,
        "epochs": whole(1, 10**9),
        "images": record({"train": COUNT, "test": COUNT}, others=anything),
        "environment": ENVIRONMENT,
    },
    others=anything,
)  # fmt: skip
GROUPS = record({}, {"groups": table(TITLE, most=10_000, key=TITLE)}, anything)
INDEX = record(
    {"weight_map": table(text(255, r"\w[\w.-]*", 1), most=100_000, key=text(500, PRINTABLE, 1))}, {"metadata": anything}
)
"""Which tensor of a model is in which file; the files lie beside the index."""
