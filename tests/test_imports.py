"""What importing the package and its rooms loads, and what the public names are, whatever was imported before."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import reflow_lightning

ROOT = Path(__file__).parent.parent
HEAVY = (
    *("lightning", "pytorch_lightning", "torchmetrics", "torchvision", "matplotlib", "hydra", "sklearn", "rich"),
    *("tensorboard", "timm", "transformers", "onnx"),
)
PLAIN = ("running", "layers", "signal", "pruning", "calibration", "schedules", "rounds", "search")
PLAIN += ("collapse", "cost", "events")

WHAT_IS_LOADED = """
import sys
from importlib import import_module
from pathlib import Path

def loaded(*names):
    return [name for name in names if name in sys.modules]

import reflow_lightning
print("reflow_lightning", *loaded("torch", "numpy", *HEAVY))
assert reflow_lightning.schedules.OneShot is reflow_lightning.OneShot  # rooms are imported when they are asked for
root = Path(reflow_lightning.__file__).parent
for room in PLAIN:
    for path in sorted((root / room).glob("**/*.py")):  # all of it, not only what its __init__ imports
        parts = path.relative_to(root).with_suffix("").parts
        import_module(".".join(("reflow_lightning", *(part for part in parts if part != "__init__"))))
    print(room, *loaded(*HEAVY))
"""


def run(code):
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_loads_nothing_and_the_plain_rooms_load_no_lightning():
    """They serve any training loop; each room is imported after those below it, in a fresh process."""
    found = run(f"HEAVY, PLAIN = {HEAVY}, {PLAIN}{WHAT_IS_LOADED}")
    assert found.splitlines() == ["reflow_lightning", *PLAIN]


def test_what_the_plain_names_load_besides_torch_is_the_package_itself():
    """So they cost what torch costs; in the same way `Reflow` costs what Lightning costs."""
    loaded = """
import sys
import {peer}
before = set(sys.modules)
from reflow_lightning import {names}
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)))
"""
    for peer, names in (("torch", "prune, calibrate, measure_signal, Gradual"), ("lightning.pytorch", "Reflow")):
        assert run(loaded.format(peer=peer, names=names)).split() == ["reflow_lightning"], names


SLOW = ("torch", "numpy", *(name for name in HEAVY if name != "hydra"))
ANSWERS = {
    "reflow-lightning --help": "Groups (group=choice):",
    "reflow-lightning search -h model=vit": "max_drop: 0.01",
    "reflow-lightning --version": "reflow-lightning ",
    "reflow-lightning sparsty=0.9": "'sparsty' is no key",
    "reflow-lightning schedule=gradul": "schedule=gradul is no choice",
    "reflow-lightning criterion=magnitud": "criterion=magnitud is unknown",
    "reflow-lightning -m seed=1,two": "seed=two is no number",
    "reflow-lightning --cfg job sparsity=0.5": "sparsity: 0.5",
    "reflow-lightning -sc query=bash": "schedule=",
}


@pytest.mark.parametrize("command", ANSWERS)
def test_what_is_answered_without_a_run_loads_neither_torch_nor_lightning(command):
    """They take seconds. Hydra is needed, and loads none of them, whatever plugins are installed."""
    code = f"""
import contextlib, io, os, sys
sys.argv = {command.split()}
os.environ["COMP_LINE"] = "reflow-lightning sched"
from reflow_lightning.experiments.app import main
shown = io.StringIO()
with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown), contextlib.suppress(SystemExit):
    main()
print(shown.getvalue(), "loaded:", *[name for name in {SLOW} if name in sys.modules])
"""
    answer, _, loaded = run(code).rpartition("loaded:")
    assert ANSWERS[command] in answer
    assert loaded.split() == []


# Python sets the room as an attribute of the package, whenever it is imported; the name must stay the function's.
ROOM = "import reflow_lightning.collapse"
PART = "from reflow_lightning.collapse import collapse_report"
DEEP = "from reflow_lightning.collapse.graph import tracing"
NAME = "from reflow_lightning import collapse"
ATTRIBUTE = "import reflow_lightning; reflow_lightning.collapse"
ORDERS = [
    (ROOM, NAME),
    (NAME,),
    (ATTRIBUTE,),
    (NAME, ROOM, NAME),
    (PART, NAME),
    (DEEP, ATTRIBUTE, NAME),
    (NAME, PART, DEEP, NAME),
    ("import importlib; importlib.import_module('reflow_lightning.collapse')", NAME),
]
CHECK = """
import io, pickle, pydoc, sys
import reflow_lightning
for found in (collapse, reflow_lightning.collapse, pickle.loads(pickle.dumps(collapse))):
    assert type(found).__name__ == "function" and found.__name__ == "collapse", found
    assert found is reflow_lightning.collapse
from reflow_lightning.collapse import collapse_report, collapse as other
assert other is collapse and reflow_lightning.collapse is collapse
assert sys.modules["reflow_lightning.collapse"].collapse_report is collapse_report
assert pickle.loads(pickle.dumps(reflow_lightning)) is reflow_lightning
shown = io.StringIO()
pydoc.Helper(output=shown)(reflow_lightning.collapse)
assert "collapse(" in shown.getvalue(), shown.getvalue()
"""


def test_collapse_is_the_function_and_its_room_is_found_in_any_order():
    """One process, which forgets the package before each order but the first."""
    forget = "for name in [n for n in sys.modules if n.partition('.')[0] == 'reflow_lightning']: del sys.modules[name]"
    code = ["import sys"]
    for order in ORDERS:
        code += [f"exec({chr(10).join((*order, NAME, CHECK))!r}, {{}})", forget]
    run("\n".join(code))


def test_a_wrong_name_is_an_error_that_names_the_nearest():
    message = re.escape("module 'reflow_lightning' has no attribute 'prun'; nearest: prune")
    with pytest.raises(AttributeError, match=message):
        reflow_lightning.prun  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'calibrat'"):
        from reflow_lightning import calibrat  # noqa: F401


def test_the_names_are_listed():
    assert {*reflow_lightning.__all__, "__version__", "signal"} <= set(dir(reflow_lightning))


def test_the_version_is_that_of_the_installation_if_there_is_one(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    assert f'version = "{reflow_lightning.__version__}"' in (ROOT / "pyproject.toml").read_text()
    monkeypatch.setattr(importlib.metadata, "version", nothing)
    monkeypatch.delattr(reflow_lightning, "__version__")
    assert reflow_lightning.__version__ == "0+unknown"


def test_type_checkers_see_the_names_that_python_gives():
    tree = ast.parse(Path(reflow_lightning.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: f"reflow_lightning.{home}" for name, home in reflow_lightning._HOMES.items()}
    assert sorted(seen) == reflow_lightning.__all__
