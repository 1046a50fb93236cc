"""`paretune cost`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paretune.cli import options
from paretune.cli.output import answer, say, table
from paretune.counts import PARTS, mac_unit
from paretune.errors import UsageError


def cost(
    model: options.Model,
    recipe: Annotated[
        list[str], typer.Option(metavar="NAME ...", help="One or several recipes; `paretune list recipes` shows them.")
    ] = ["sparse-tuning"],  # noqa: B006 - typer reads it, nobody changes it
    classes: Annotated[
        int | None, typer.Option(min=2, max=250_000, help="Outputs of a new head; the backbone's own by default.")
    ] = None,
    set_: options.Set = None,
    image_size: options.ImageSize = None,
    detail: Annotated[
        bool, typer.Option("--detail", help="Also show the cost per block and per kind of module.")
    ] = False,
    sizes: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="N ...", help="Show how cost grows with the image size: --sizes 224 384 512."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw --sizes into this .png, .svg or .pdf; needs paretune[plot].")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show trained parameters, multiply-accumulates and tokens per block, before any training. Needs no weights.

    MACs are the multiply-accumulates for one image. Both papers call the same count FLOPs; the number of operations
    would be twice as large.
    """
    from paretune.verbs.recipes import chosen_recipe

    chosen = [chosen_recipe(name, set_, {}) for name in recipe]
    if sizes:
        if detail or image_size is not None:
            raise UsageError("--sizes shows whole models at the given sizes: leave out --detail and --image-size")
        return _growth(model, chosen, sizes, classes, plot, as_json)
    if plot is not None:
        raise UsageError("--plot draws how cost grows with the image: give the sizes too, as in --sizes 224 384 512")
    return _costs(model, chosen, image_size, classes, detail, as_json)


def _costs(
    model: str, chosen: list, image_size: int | None, classes: int | None, detailed: bool, as_json: bool
) -> None:
    from paretune.measure.cost import cost
    from paretune.measure.detail import detail
    from paretune.measure.growth import check_sizes, weightless

    if image_size is not None:
        check_sizes(weightless(model, (), None, None), [image_size])
    size = {} if image_size is None else {"img_size": image_size}
    found = {
        one.name: (detail if detailed else cost)(weightless(model, one.adapters, one.reducer, classes, **size))
        for one in chosen
    }
    tell = _say_details if detailed else _say_costs
    if len(found) == 1:
        (alone,) = found.values()
        return answer(alone.to_dict(), as_json, lambda: tell(found))
    return answer({"recipes": {name: one.to_dict() for name, one in found.items()}}, as_json, lambda: tell(found))


def _say_costs(found: dict) -> None:
    if len(found) == 1:
        return say(str(*found.values()))
    unit = mac_unit(c.macs for c in found.values())
    rows = [
        (
            name, f"{c.trained:,}", f"{c.trained_without_head:,}", unit.write(c.macs),
            f"{c.tokens[0][0]} to {c.tokens[-1][1]}",
        )
        for name, c in found.items()
    ]  # fmt: skip
    return table("", ("recipe", "trained", "without the head", unit.name, "tokens"), rows)


def _say_details(found: dict) -> None:
    from paretune.measure.detail import GROUPS

    for name, one in found.items():
        say(f"{name}\n{one.cost}")
        columns = [kind for kind in GROUPS if any(kind in part.macs for part in one.blocks)]
        columns = [kind for kind in columns if kind not in ("embed", "head")]
        rows = [_block_row(part, columns) for part in one.blocks]
        total = [PARTS.write(sum(part.macs.get(kind, 0) for part in one.blocks)) for kind in columns]
        rows.append(("all", "", *total, *_sums(one.blocks)))
        table(f"{PARTS.name} per block", ("", "tokens", *columns, "all", "parameters", "trained"), rows, words=2)
        rows = [(part.name, GROUPS[part.name], _share(part, one.cost), *_sums([part])) for part in one.groups]
        rows.append(("all", "", "100.0 %", *_sums(one.groups)))
        table("per kind of module", ("", "what", "share", PARTS.name, "parameters", "trained"), rows, words=2)


def _block_row(part, columns: list[str]) -> tuple[str, ...]:
    tokens = "" if part.tokens is None else " -> ".join(map(str, dict.fromkeys(part.tokens)))
    macs = (PARTS.write(part.macs[kind]) if kind in part.macs else "" for kind in columns)
    return part.name, tokens, *macs, *_sums([part])


def _sums(parts) -> tuple[str, str, str]:
    """MACs, parameters and trained parameters of all parts together."""
    macs, parameters, trained = (sum(getattr(p, name) for p in parts) for name in ("total", "parameters", "trained"))
    return PARTS.write(macs), f"{parameters:,}", f"{trained:,}"


def _share(part, whole) -> str:
    return f"{100 * part.total / whole.macs:.1f} %"


def _growth(model: str, chosen: list, sizes: list[int], classes: int | None, plot: Path | None, as_json: bool) -> None:
    from paretune.measure.growth import growth
    from paretune.show.growth import check_plot, draw

    if plot is not None:
        check_plot(plot)
    rows = [row for recipe in chosen for row in growth(model, recipe, sizes, classes)]
    if plot is not None:
        draw(rows, model, plot)
    answer({"model": model, "sizes": [row.to_dict() for row in rows]}, as_json, lambda: _say_growth(rows, plot))


def _say_growth(rows: list, plot: Path | None) -> None:
    unit = mac_unit(row.macs_all_tokens for row in rows)
    cells = [
        (
            row.recipe, f"{row.image_size[0]}x{row.image_size[1]}", f"{row.tokens[0]} to {row.tokens[1]}",
            unit.write(row.macs), unit.write(row.macs_all_tokens), f"{row.ratio:.3f}",
        )
        for row in rows
    ]  # fmt: skip
    table("", ("recipe", "image", "tokens", unit.name, "with all tokens", "ratio"), cells)
    if plot is not None:
        say(f"drawn: {plot}")
