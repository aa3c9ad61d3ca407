"""ARCHITECTURE.md is true: its rooms are the folders, and every import leads to a lower floor."""

import ast
import re
from pathlib import Path

import pytest

import reflow_lightning

PACKAGE = Path(reflow_lightning.__file__).parent
PAGE = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
FLOORS = {room: int(floor) for floor, room in re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, flags=re.MULTILINE)}
LIGHTNING = ("lightning", "pytorch_lightning", "torchmetrics", "torchvision", "hydra", "omegaconf")


def imports(path):
    """``(line, module)`` of every import in a file: in functions, for types, and by `import_module` too."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(parts[: len(parts) - node.level]) + "." if node.level else ""
            module = f"{above}{node.module or ''}".rstrip(".")
            if module == "reflow_lightning":  # a room, or a public name, which stands above all rooms
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((node.lineno, str(arg.value)) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def room_of(module):
    """The room of a module of ours; of anything that the package itself gives, its name there."""
    return module.split(".")[1] if module.startswith("reflow_lightning.") else None


def files(room):
    return sorted((PACKAGE / room).glob("**/*.py"))


def test_the_rooms_are_the_folders_of_the_package():
    assert sorted(FLOORS) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    assert sorted(FLOORS) == sorted((*reflow_lightning._ROOMS, "collapse"))  # which is a function there


@pytest.mark.parametrize("room", FLOORS)
def test_a_room_imports_only_from_lower_floors(room):
    """So that nothing is reached upwards in several steps either."""
    upwards = [
        f"{path.relative_to(PACKAGE)}:{line} imports {module}"
        for path in files(room)
        for line, module in imports(path)
        if (other := room_of(module)) not in (None, room) and not FLOORS.get(other, 99) < FLOORS[room]
    ]
    assert upwards == []


@pytest.mark.parametrize("room", [room for room in FLOORS if FLOORS[room] < FLOORS["callbacks"]])
def test_a_plain_room_imports_no_lightning(room):
    """Not even within a function, or for types."""
    found = [
        f"{path.relative_to(PACKAGE)}:{line} imports {module}"
        for path in files(room)
        for line, module in imports(path)
        if module.split(".")[0] in LIGHTNING
    ]
    assert found == []


def test_imports_are_found_wherever_they_stand(tmp_path, monkeypatch):
    path = tmp_path / "reflow_lightning" / "signal" / "report.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import torch, reflow_lightning.events\n"
        "from reflow_lightning import prune\n"
        "from ..pruning import masks\n"
        "from .cka import LinearCKA\n"
        "if TYPE_CHECKING:\n    from reflow_lightning.search.find import Search\n"
        "def later():\n    importlib.import_module('reflow_lightning.callbacks')\n"
    )
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path / "reflow_lightning")
    found = [room_of(module) for _, module in imports(path)]
    assert sorted(map(str, found)) == ["None", "callbacks", "events", "prune", "pruning", "search", "signal"]


def test_files_and_folders_that_the_page_names_are_there():
    named = re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", PAGE)
    assert [name for name in named if not any((root / name).exists() for root in (PACKAGE, PACKAGE.parent))] == []
