"""Which room of paretune imports which: a folder of src/paretune is a room, and so is a module beside them.

    python scripts/import_graph.py             a line a room: the rooms that it imports
    python scripts/import_graph.py --files     a line a file: the files that it imports
    python scripts/import_graph.py --json      {"files": {file: [file, ...]}, "rooms": {room: [room, ...]}}

Imports inside of functions count, and those for type checkers too. Nothing of paretune is imported or run.
"""

from __future__ import annotations

import argparse
import ast
import json
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "paretune"
ROOT = "paretune"  # the room of the package's own __init__, which holds the public names


def modules() -> dict[str, Path]:
    """Every file by its path without .py, such as "core/leaf"; a package's __init__ goes by the package's name."""
    paths = sorted(SRC.rglob("*.py"))
    names = [path.relative_to(SRC).with_suffix("").as_posix().removesuffix("__init__").rstrip("/") for path in paths]
    return dict(zip([name or ROOT for name in names], paths, strict=True))


def file_graph() -> dict[str, list[str]]:
    """The files that each file imports. `from package import module` is an import of the module alone."""
    known = modules()
    return {name: sorted(_imported(path, known) - {name}) for name, path in known.items()}


def room_graph(files: dict[str, list[str]]) -> dict[str, list[str]]:
    """The other rooms that each room imports."""
    rooms: dict[str, set[str]] = {room(name): set() for name in files}
    for name, imported in files.items():
        rooms[room(name)] |= {room(other) for other in imported} - {room(name)}
    return {name: sorted(others) for name, others in rooms.items()}


def room(name: str) -> str:
    """The room of a file: "core/leaf" is in "core"."""
    return name.partition("/")[0]


def circles(graph: dict[str, list[str]]) -> list[str]:
    """The names that reach themselves along the arrows of a graph."""
    reached = {name: set(others) for name, others in graph.items()}
    for middle in graph:
        for name in graph:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    return [name for name in graph if name in reached[name]]


def _imported(path: Path, known: dict[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {_name(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {_name(f"{node.module}.{alias.name}") for alias in node.names}
            found |= inside if inside <= known.keys() else inside | {_name(node.module)}
    return found & known.keys()


def _name(dotted: str | None) -> str:
    """ "paretune.core.leaf" -> "core/leaf"; modules of others stay as they are, dotted."""
    first, _, rest = (dotted or "").partition(".")
    return (rest.replace(".", "/") or ROOT) if first == ROOT else f"{dotted}."


def main() -> None:
    """Print the graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="a line for every file")
    parser.add_argument("--json", action="store_true", help="both graphs as JSON")
    asked = parser.parse_args()
    files = file_graph()
    rooms = room_graph(files)
    if asked.json:
        print(json.dumps({"files": files, "rooms": rooms}, indent=2))
        return
    for name, others in (files if asked.files else rooms).items():
        print(f"{name:<{28 if asked.files else 12}} -> {' '.join(others) or '-'}")
    print(f"circles of rooms: {' '.join(circles(rooms)) or 'none'}; of files: {' '.join(circles(files)) or 'none'}")


if __name__ == "__main__":
    main()
