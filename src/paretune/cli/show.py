"""`paretune show`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say
from paretune.errors import UsageError


def show(
    model: Annotated[
        str, typer.Argument(help="Folder that `paretune train` wrote; or a backbone's name, with --recipe.")
    ],
    images: Annotated[list[Path], typer.Argument(help="Image files; each gets a row of pictures.")],
    recipe: Annotated[
        str | None, typer.Option(help="Recipe for a backbone that is given by name; it is not trained.")
    ] = None,
    set_: options.Set = None,
    out: Annotated[Path, typer.Option(help="The picture to write, a .png file.")] = Path("tokens.png"),
    block: Annotated[
        int | None, typer.Option(min=0, help="Block whose attention is shown; the last one by default.")
    ] = None,
    image_size: options.ImageSize = None,
    pretrained: options.Pretrained = True,
    checkpoint: options.Checkpoint = None,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Draw which patches are kept, merged or dropped at every reduction, and the attention before and after.

    From left to right: the image as the model sees it; the patches after each reduction, at most six; the attention of
    the class token in the backbone alone, with all tokens, and in this model, on the same colour scale.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: the picture is a PNG, name a file that ends in .png")
    from paretune.files import written
    from paretune.show.panels import panels, picture_of
    from paretune.training.device import pick_device

    where = pick_device(device)
    adapted = _model(model, recipe, set_, image_size, pretrained, checkpoint)
    found = panels(adapted.to(where).eval(), images, block)
    out.parent.mkdir(parents=True, exist_ok=True)
    with written(out) as new:
        picture_of(found).save(new, format="PNG")
    answer(_value(found, images, out), as_json, lambda: _say(found, out))


def _model(model: str, recipe: str | None, set_: list[str] | None, image_size: int | None, pretrained: bool,
           checkpoint: Path | None):  # fmt: skip
    """A saved folder, or a backbone with a recipe on it."""
    from paretune.sharded import is_weights_folder

    if Path(model).is_dir() and not is_weights_folder(Path(model)):
        asked = {"--recipe": recipe, "--set": set_, "--image-size": image_size}
        if given := [name for name, value in asked.items() if value is not None]:
            raise UsageError(
                f"{model} is the folder of a saved model, which contains its own settings: leave {given[0]} out"
            )
        from paretune.checkpoint import load

        return load(model, checkpoint=checkpoint)
    if recipe is None:
        raise UsageError(f"'{model}' is no folder: give one that `paretune train` wrote, or a backbone and --recipe")
    from paretune.verbs.recipes import build, chosen_recipe

    return build(model, chosen_recipe(recipe, set_, {}), None, image_size, pretrained, checkpoint)


def _value(found, images: list[Path], out: Path) -> dict:
    rows = [
        {"image": str(path), "panels": [{"title": p.title, "caption": p.caption, "alt": p.alt} for p in row]}
        for path, row in zip(images, found.rows, strict=True)
    ]
    return {"out": str(out), "images": rows, "notes": list(found.notes)}


def _say(found, out: Path) -> None:
    for row in found.rows:
        say(f"{row[0].caption}: " + ", ".join(f"{panel.title} {panel.caption}" for panel in row[1:]))
    say(f"saved in {out}")
