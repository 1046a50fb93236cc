"""Other names of backbones and the names that timm has for them: ids of the Hub, torch.hub names, short names."""

from __future__ import annotations

import re

_LETTERS = {"t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}
_SIZE = "(?P<size>tiny|small|base|large|huge|giant|so400m)"
_LETTER = "(?P<letter>[tsblhg])"
# A pattern in lower case, without the owner, and the possible names in timm. The first one that timm has is taken.
_ALIASES = (
    (rf"dinov2-{_SIZE}", "vit_{size}_patch14_dinov2.lvd142m"),
    (rf"dinov2-with-registers-{_SIZE}", "vit_{size}_patch14_reg4_dinov2.lvd142m"),
    (rf"dinov2_vit{_LETTER}14", "vit_{size}_patch14_dinov2.lvd142m"),
    (rf"dinov2_vit{_LETTER}14_reg", "vit_{size}_patch14_reg4_dinov2.lvd142m"),
    (rf"dinov3[-_]vit{_LETTER}16(-pretrain-lvd1689m)?", "vit_{size}_patch16_dinov3.lvd1689m"),
    (rf"dinov3[-_]vit{_LETTER}16plus(-pretrain-lvd1689m)?", "vit_{size}_plus_patch16_dinov3.lvd1689m"),
    (rf"vit-{_SIZE}-patch(?P<patch>\d+)-(?P<image>\d+)-in21k",
     "vit_{size}_patch{patch}_{image}.orig_in21k", "vit_{size}_patch{patch}_{image}.augreg_in21k"),
    (rf"vit-{_SIZE}-patch(?P<patch>\d+)-(?P<image>\d+)",
     "vit_{size}_patch{patch}_{image}.orig_in21k_ft_in1k", "vit_{size}_patch{patch}_{image}.augreg_in21k_ft_in1k",
     "vit_{size}_patch{patch}_{image}"),
    (rf"vit-mae-{_SIZE}", "vit_{size}_patch16_224.mae"),
    (rf"deit-{_SIZE}-distilled-patch16-(?P<image>\d+)", "deit_{size}_distilled_patch16_{image}.fb_in1k"),
    (rf"deit-{_SIZE}-patch16-(?P<image>\d+)", "deit_{size}_patch16_{image}.fb_in1k"),
    (rf"dino[-_]vit{_LETTER}(?P<patch>\d+)", "vit_{size}_patch{patch}_224.dino"),
    (rf"clip-vit-{_SIZE}-patch(?P<patch>\d+)(-(?P<image>\d+))?",
     "vit_{size}_patch{patch}_clip_quickgelu_{image}.openai"),
    (rf"siglip-{_SIZE}-patch(?P<patch>\d+)-(?P<image>\d+)", "vit_{size}_patch{patch}_siglip_{image}.webli"),
    (rf"siglip2-{_SIZE}-patch(?P<patch>\d+)-(?P<image>\d+)", "vit_{size}_patch{patch}_siglip_{image}.v2_webli"),
    (rf"vit[-_]?{_LETTER}[-_/]?(?P<patch>\d+)([-_@](?P<image>\d+))?", "vit_{size}_patch{patch}_{image}"),
    (rf"deit[-_]?{_LETTER}[-_/]?(?P<patch>16)", "deit_{size}_patch{patch}_{image}"),
)  # fmt: skip
# Families that paretune cannot run, as words in names that timm does not know either.
_OTHERS = ("swin", "beit", "convnext", "resnet", "resnext", "regnet", "efficientnet", "mobilenet", "mobilevit", "levit",
           "poolformer", "focalnet", "segformer", "cvt", "pvt", "maxvit", "data2vec")  # fmt: skip
_OWNERS = ("facebook", "google", "openai", "timm", "microsoft")


def candidates(name: str) -> list[str]:
    """Possible names in timm of the backbone `name`, the likeliest first; [] if no pattern matches."""
    owner, _, rest = name.lower().rpartition("/")
    spelled = [rest] if owner in _OWNERS else []
    for text in (*spelled, name.lower()):
        for pattern, *ours in _ALIASES:
            if found := re.fullmatch(pattern, text):
                parts = {"image": "224", **{key: value for key, value in found.groupdict().items() if value}}
                if "letter" in parts:
                    parts["size"] = _LETTERS[parts["letter"]]
                return [one.format(**parts) for one in ours]
    return [rest] if owner == "timm" else []


def other_family(name: str) -> str | None:
    """The family in a name that paretune cannot run, or None."""
    return next((word for word in _OTHERS if re.search(rf"(^|[-_/]){word}", name.lower())), None)
