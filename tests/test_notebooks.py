"""The notebooks are saved as they ran, small and free of traces of the machine; and they run."""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 180

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(notebook, kind):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def outputs(notebook):
    return [output for cell in cells(notebook, "code") for output in cell["outputs"]]


def pictures(notebook):
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def complaints(notebook):
    """Errors and whatever went to stderr, such as warnings and progress bars."""
    return [
        output for output in outputs(notebook) if output["output_type"] == "error" or output.get("name") == "stderr"
    ]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 5


@each_notebook
def test_it_is_saved_as_it_ran_from_top_to_bottom(path):
    notebook = json.loads(path.read_text())
    counts = [cell["execution_count"] for cell in cells(notebook, "code")]
    assert counts == list(range(1, len(counts) + 1))
    assert pictures(notebook) >= 2
    assert complaints(notebook) == []


@each_notebook
def test_it_begins_with_a_claim_and_says_what_its_pictures_show(path):
    notebook = json.loads(path.read_text())
    texts = ["".join(cell["source"]) for cell in cells(notebook, "markdown")]
    assert "**Claim.**" in texts[0]
    assert sum("**What it shows.**" in text for text in texts) >= pictures(notebook)


@each_notebook
def test_it_is_small(path):
    assert path.stat().st_size < 200_000


@each_notebook
def test_it_holds_no_trace_of_the_machine(path):
    notebook = json.loads(path.read_text())
    for output in outputs(notebook):
        output.get("data", {}).pop("image/png", None)  # letters at random
    assert re.findall(r"/(?:home|root|tmp|var|private|Users)/\S*|[A-Z]:\\\\\S*", json.dumps(notebook)) == []
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert all(cell["metadata"] == {} for cell in notebook["cells"])  # nbclient notes times here


@each_notebook
def test_its_links_lead_somewhere(path):
    for cell in cells(json.loads(path.read_text()), "markdown"):
        for target in re.findall(r"\]\((?!http)([^)]+)\)", "".join(cell["source"])):
            assert (FOLDER / target).exists()


def seconds_of_children():
    """Seconds of a processor that ended processes have used; tests that run at the same time take it none of these."""
    resource = pytest.importorskip("resource")
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


@pytest.mark.slow
@each_notebook
def test_it_runs(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    # torchmetrics imports transformers where it is installed, which complains where ipywidgets are missing
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")
    notebook = nbformat.read(path, as_version=4)
    saved = pictures(notebook)
    start = seconds_of_children()
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert 1 < seconds_of_children() - start < SECONDS
    assert pictures(notebook) == saved
    assert complaints(notebook) == []
    assert list(tmp_path.iterdir()) == []
