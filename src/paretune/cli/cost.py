"""`paretune cost`"""

from __future__ import annotations

from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer


def cost(
    model: options.Model,
    recipe: options.Recipe = "sparse-tuning",
    classes: Annotated[
        int | None, typer.Option(min=2, help="Outputs of a new head; the backbone's own by default.")
    ] = None,
    set_: options.Set = None,
    image_size: options.ImageSize = None,
    as_json: options.AsJson = False,
) -> None:
    """Trained parameters, multiply-accumulates and tokens per block, before anything is trained. Needs no weights."""
    from paretune.cli.build import build, chosen_recipe
    from paretune.measure.cost import cost

    found = cost(build(model, chosen_recipe(recipe, set_, {}), classes, image_size, False, None))
    answer(found.to_dict(), as_json, lambda: typer.echo(str(found)))
