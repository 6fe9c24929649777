"""examples/improvements.ipynb: how it is written, and real runs on demo tiles."""

import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import PROJECT

from eurosat_helpers.improvements import comparison, runs

NOTEBOOK = PROJECT / "examples" / "improvements.ipynb"
# Small networks in place of the large ones, which take minutes to trace: our own, and the rest.
NETWORK = """\
import functools

models.build_cnn = functools.partial(models.build_cnn, stem_width=8, widths=(8,), blocks=(1,))
print("smaller")
"""
BASE_AND_SEARCH = """\
import keras
import keras_tuner

def build_small(*, include_top, weights, input_shape):
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(8, 5, strides=4, name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="conv1_bn")(x)
    return keras.Model(inputs, keras.layers.ReLU(name="conv1_relu")(x))

bases.BASES["MobileNet_0.75"] = bases._Base(build_small, 32, (127.5,) * 3, 127.5)
space = keras_tuner.HyperParameters()
space.Float("learning_rate", 1e-3, 1e-2)
for name, value in {"batch_size": 32, "stages": 1, "width": 8}.items():
    space.Choice(name, [value])
tuning._default_space = lambda: space
print("smaller")
"""


def code_cells(path):
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def text(output):
    if output.output_type == "stream":
        return output.text
    return str(output.get("data", {}).get("text/plain", ""))


def test_cells_are_short_define_nothing_and_begin_with_the_parameters():
    first, *others = code_cells(NOTEBOOK)
    assert first.metadata.tags == ["parameters"]
    for cell in others:
        lines = cell.source.splitlines()
        assert len(lines) <= 12, cell.source
        assert not any(line.lstrip().startswith(("def ", "class ")) for line in lines), cell.source
        assert "title" not in cell.source or "tiles.source" in cell.source, cell.source


def run(home, *, cwd, shrunken):
    """Run the notebook as a newcomer does, with no data and no network."""
    for name in ("eurosat_helpers", "examples"):
        shutil.copytree(PROJECT / name, home / name)
    path = home / "examples" / "improvements.ipynb"
    notebook = nbformat.read(path, as_version=4)
    imports = next(n for n, cell in enumerate(notebook.cells) if "import bases" in cell.source)
    shrink = NETWORK + (BASE_AND_SEARCH if shrunken else "")
    notebook.cells.insert(imports + 1, nbformat.v4.new_code_cell(shrink))
    nbformat.write(notebook, path)
    ours = {"EUROSAT_ARCHIVE", "MPLBACKEND", "TF_CPP_MIN_LOG_LEVEL"}  # a newcomer has none of them
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    nowhere = "http://127.0.0.1:9"  # a proxy that nobody runs: no address can be reached
    environment |= {"HTTPS_PROXY": nowhere, "https_proxy": nowhere, "NO_PROXY": "", "no_proxy": ""}
    environment |= {"PYTHONPATH": str(home)}
    quick = ["-p", "few_tiles", "100", "-p", "few_epochs", "2", "-p", "trials", "1"]
    command = [sys.executable, "-m", "papermill", path, home / "out.ipynb", *quick]
    done = subprocess.run(
        command, cwd=home / cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return code_cells(home / "out.ipynb")


@pytest.mark.parametrize(
    ("cwd", "shrunken"),
    [("examples", True), pytest.param(".", False, marks=pytest.mark.slow)],
    ids=["small networks, in its folder", "its own base and search, in the project's folder"],
)
def test_demo_run_is_clean_and_every_cell_shows_something(tmp_path, cwd, shrunken):
    home = tmp_path / "projét with spaces"
    _, *cells = [cell for cell in run(home, cwd=cwd, shrunken=shrunken) if cell.source]
    shown = ""
    for cell in cells:
        parameters = "injected-parameters" in cell.metadata.get("tags", [])
        assert parameters or cell.outputs, f"shows nothing:\n{cell.source}"
        for output in cell.outputs:
            assert output.get("name") != "stderr", output.text
            shown += text(output)
    assert "DEMO TILES" in shown
    for word in (str(home), "site-packages", "Warning"):
        assert word not in shown
    figures = [o for cell in cells for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(figures) == 2  # the trials, and accuracy against time
    # Everything lies in the project's folder, wherever the notebook runs.
    assert {path.name for path in (home / "results").iterdir()} >= {"runs.csv", "runs", "search"}
    folders = [path.name for path in (home / "examples").iterdir() if path.is_dir()]
    assert folders in ([], ["__pycache__"])
    table = runs.table(home / "results", newest=True).set_index("name")
    assert (table.source == "demo tiles").all()
    assert {"few", "few-oversampled", "few-fine-tuned", "few-ensemble"} <= set(table.index)
    assert table.epochs["few-fine-tuned"] == 4  # with those of the head
    assert table.epochs["few-features-RBF-SVM"] == 4
    assert table.seconds["few-eight-views"] == table.seconds["few"]
    # The ensemble is compared with its best member.
    (compared,) = [cell for cell in cells if '"few-ensemble", best' in cell.source]
    members = ["few-fine-tuned", "few", "few-bagged-1", "few-bagged-2"]
    best = table.accuracy[members].max()
    found = comparison.compare_runs("few-ensemble", "few", directory=home / "results")
    assert found.other_accuracy.item() == table.accuracy["few"]
    assert f"{best:.4f}".rstrip("0") in "".join(map(text, compared.outputs))
