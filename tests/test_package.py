"""The package as a whole: who imports whom, and how large it may grow."""

import ast
import re

import pytest
from conftest import PROJECT

PACKAGE = PROJECT / "eurosat_helpers"
ROOMS = sorted(
    path.stem
    for path in PACKAGE.glob("[!_]*")
    if path.suffix == ".py" or (path / "__init__.py").is_file()
)
# What goes beyond the main path of the pair: changed tiles, users' images, scenes, explanations,
# several machines, TensorBoard, hints of ImageNet.
BEYOND = ("corruptions", "outliers", "decoding", "pixels", "image_files", "scenes", "attribution")
BEYOND += ("explorer", "workers", "board", "hints", "improvements")
WINGS = ("data", "plots", "scenes", "improvements")


def read(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def files(room):
    return sorted((PACKAGE / room).glob("*.py")) if room in WINGS else [PACKAGE / f"{room}.py"]


def lines(paths):
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def imported_rooms(path):
    """The rooms that a file imports, and the modules of its own wing."""
    names = set()
    for node in ast.walk(read(path)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            module = node.module or ""
            if module == "eurosat_helpers":
                names |= {alias.name for alias in node.names}
            elif module.startswith("eurosat_helpers."):
                names.add(module.split(".")[1])
    return names


def diagram():
    """The table of rooms in CONTRIBUTING.md: room -> the rooms that it imports."""
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = re.search(r"```\n(data +:.*?)```", text, re.DOTALL).group(1)
    rows = (line.partition(":") for line in block.splitlines())
    return {room.strip(): imports.split() for room, _, imports in rows}


def test_diagram_has_each_room_once_and_points_only_up_the_page():
    drawn = diagram()
    assert sorted(drawn) == ROOMS
    above = set()
    for room, imports in drawn.items():
        assert room == "improvements" or set(imports) <= above, room
        above.add(room)


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_what_the_diagram_says(room):
    imported = set().union(*map(imported_rooms, files(room))) - {room}
    drawn = set(diagram()[room])
    if room == "improvements":
        assert imported <= set(ROOMS)
    else:
        assert imported == drawn


def test_modules_of_a_wing_form_no_circle():
    for wing in WINGS:
        graph = {}
        for path in files(wing):
            graph[path.stem] = {
                name
                for node in ast.walk(read(path))
                if isinstance(node, ast.ImportFrom)
                and (node.module or "").startswith(f"eurosat_helpers.{wing}")
                for name in (
                    [node.module.split(".")[2]]
                    if node.module.count(".") > 1
                    else [alias.name for alias in node.names]
                )
            }
        while graph:
            free = [name for name, needs in graph.items() if not needs & graph.keys()]
            assert free, f"{wing}: {graph}"
            for name in free:
                del graph[name]


def test_rooms_stay_small():
    pair = [path for room in ROOMS if room not in BEYOND for path in files(room)]
    pair = [path for path in pair if path.name not in ("maps.py", "explanations.py")]
    for path in PACKAGE.rglob("*.py"):
        assert lines([path]) <= 200, path
    assert lines([*pair, PACKAGE / "__init__.py"]) <= 2917
    assert lines(files("improvements")) <= 1300


def public_names(room):
    """What a room offers: what the `__init__` of a wing hands on, else what its files define."""
    init = PACKAGE / room / "__init__.py"
    if init.is_file() and (
        handed_on := [n for n in read(init).body if isinstance(n, ast.ImportFrom)]
    ):
        names = [alias.name for node in handed_on for alias in node.names]
        return [f"{room}.{name}" for name in names if not name.isupper()]
    return [
        f"{path.stem}.{node.name}"
        for path in files(room)
        for node in read(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]


def test_public_names_are_few():
    beyond = {"plots.scene_map", "plots.explanations"}
    beyond |= {n for room in BEYOND if room != "improvements" for n in public_names(room)}
    names = {name for room in ROOMS for name in public_names(room)} - beyond
    assert len(names) <= 60, sorted(names)
    assert len(beyond) <= 27, sorted(beyond)


def test_every_room_has_its_tests():
    for room in ROOMS:
        assert list((PROJECT / "tests").glob(f"test_{room}.py")) or list(
            (PROJECT / "tests" / room).glob("test_*.py")
        ), room
