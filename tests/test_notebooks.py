"""How the committed notebooks look, and a real run of the pair on demo tiles."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from conftest import PROJECT

PAIR = ("training.ipynb", "inference.ipynb")
NOTEBOOKS = (*PAIR, "examples/improvements.ipynb")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source]


def parameters_cell(notebook):
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def texts(notebook):
    """Everything that the outputs show as text."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "stream":
                yield output.text
            else:
                yield str(output.get("data", {}).get("text/plain", ""))


def figures(notebook):
    return [
        output
        for cell in code_cells(notebook)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]


def checksums(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(params=NOTEBOOKS)
def committed(request):
    return nbformat.read(PROJECT / request.param, as_version=4)


def test_code_cells_are_short_and_define_nothing(committed):
    for cell in code_cells(committed):
        lines = cell.source.splitlines()
        is_parameters = cell is parameters_cell(committed)
        assert is_parameters or len(lines) <= 12, cell.source
        assert not any(line.lstrip().startswith(("def ", "class ")) for line in lines), cell.source


def test_first_code_cell_is_the_parameters(committed):
    assert code_cells(committed)[0] is parameters_cell(committed)


def test_committed_notebook_is_executed_top_to_bottom_with_clean_output(committed):
    cells = code_cells(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells[1:]:
        assert cell.outputs, f"shows nothing:\n{cell.source}"
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")
    assert figures(committed)


def test_committed_notebook_names_no_path_of_a_machine(committed):
    shown = "\n".join(texts(committed))
    for word in ("/home/", "/root/", "/work/", "/tmp/", "C:\\", "site-packages", "Warning"):
        assert word not in shown


def test_committed_notebook_ran_on_the_real_tiles(committed):
    assert "demo" not in "".join(texts(committed)).lower()


def run(home, name, *parameters, environment=None):
    command = [sys.executable, "-m", "papermill", name, f"results/{name}", *parameters]
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return nbformat.read(home / "results" / name, as_version=4)


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    """The project as a newcomer has it, run with no data and no network: two small epochs."""
    home = tmp_path_factory.mktemp("newcomer") / "projét with spaces"
    (home / "results").mkdir(parents=True)
    for name in (*PAIR, "eurosat_helpers"):
        source = PROJECT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, home / name)
    shipped = home / "saved_model" / "eurosat_cnn"
    shutil.copytree(PROJECT / "saved_model" / "eurosat_cnn", shipped)
    before = checksums(home)
    ours = {"EUROSAT_ARCHIVE", "MPLBACKEND", "TF_CPP_MIN_LOG_LEVEL"}  # a newcomer has none of them
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    nowhere = "http://127.0.0.1:9"  # a proxy that nobody runs: no address can be reached
    environment |= {"HTTPS_PROXY": nowhere, "https_proxy": nowhere, "NO_PROXY": "", "no_proxy": ""}
    small = ["-p", "epochs", "2", "-y", "{widths: [8, 16, 16, 16]}"]
    run(home, "training.ipynb", *small, environment=environment)
    run(home, "inference.ipynb", "-p", "seed", "5", environment=environment)
    return home, before, environment


@pytest.mark.parametrize("name", PAIR)
def test_demo_run_is_clean_and_says_demo_on_every_figure(demo_run, name):
    home, _, _ = demo_run
    notebook = nbformat.read(home / "results" / name, as_version=4)
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.get("name") != "stderr", output.get("text")
    assert "DEMO TILES" in "".join(texts(notebook))
    assert figures(notebook)


def test_every_title_in_the_notebooks_names_the_source_of_the_tiles(committed):
    for cell in code_cells(committed):
        if "plots." in cell.source:
            assert "title=" in cell.source
            named = "tiles.source" in cell.source or "Path(images).name" in cell.source
            assert named, cell.source


def test_demo_run_saves_the_demo_model_and_touches_nothing_else(demo_run):
    home, before, _ = demo_run
    after = checksums(home)
    assert {name: after.get(name) for name in before} == before
    new = {path for path in set(after) - set(before) if "__pycache__" not in path.parts}
    assert {path.parts[0] for path in new} == {"checkpoints", "results", "saved_model"}
    saved = {path.parts[1] for path in new if path.parts[0] == "saved_model"}
    assert saved == {"demo", ".demo.lock"}
    results = {path.name for path in new if path.parts[0] == "results"} - {".lock"}
    assert results == {*PAIR, "predictions.csv", "predictions.png"}


def test_demo_run_predicts_twenty_tiles(demo_run):
    home, _, _ = demo_run
    table = pd.read_csv(home / "results" / "predictions.csv")
    assert list(table.columns[:4]) == ["file", "truth", "prediction", "confidence"]
    assert len(table) == 20
    assert (table.truth.value_counts() == 2).all()
    unseen = (home / "saved_model" / "demo" / "test_files.txt").read_text().split()
    assert set(table.file) <= set(unseen)


def test_inference_notebook_classifies_images_of_ones_own(demo_run, demo_folder, tmp_path):
    home = shutil.copytree(demo_run[0], tmp_path / "home")
    mine = shutil.copytree(demo_folder / "2750", home / "mes images" / "labelled")
    shutil.copy(mine / "River" / "River_1.jpg", home / "mes images")
    (home / "mes images" / "broken.png").write_bytes(b"not an image")
    parameters = ["-p", "seed", "5", "-p", "images", "mes images", "-p", "image_size", "cut"]
    executed = run(home, "inference.ipynb", *parameters, environment=demo_run[2])
    table = pd.read_csv(home / "results" / "images.csv", keep_default_na=False)
    assert len(table) == 62
    assert table.truth.ne("").sum() == 60
    assert table[table.file == "broken.png"].note.str.startswith("not a JPEG").all()
    shown = "".join(texts(executed))
    assert "60 images in folders with the name of a class" in shown
    assert "sure answers correct" in shown
    assert len(figures(executed)) == 3
    for cell in code_cells(executed):
        assert all(output.get("name") != "stderr" for output in cell.outputs)


@pytest.mark.slow
def test_each_cell_runs_twice_with_the_same_result(demo_run):
    """The finished training is not repeated, so this takes seconds."""
    home, _, environment = demo_run
    notebook = nbformat.read(home / "training.ipynb", as_version=4)
    twice = [cell for cell in notebook.cells for _ in range(2) if cell.cell_type == "code"]
    for cell in twice:
        cell.source = cell.source.replace("epochs = 20", "epochs = 2")
        cell.source = cell.source.replace("[32, 64, 128, 256]", "[8, 16, 16, 16]")
    notebook.cells = [nbformat.from_dict({**cell, "id": f"c{n}"}) for n, cell in enumerate(twice)]
    nbformat.write(notebook, home / "twice.ipynb")
    before = (home / "saved_model" / "demo" / "metadata.json").read_text()
    executed = run(home, "twice.ipynb", environment=environment)
    assert "This run is finished." in "".join(texts(executed))
    after = (home / "saved_model" / "demo" / "metadata.json").read_text()
    assert json.loads(after)["scores"] == json.loads(before)["scores"]


ENSEMBLE = """
import json
from pathlib import Path

import keras
import pandas as pd

from eurosat_helpers import artifact, data, outliers
from eurosat_helpers.improvements import ensemble

demo = Path("saved_model/demo")
metadata = json.loads((demo / "metadata.json").read_text())
tiles = data.load()
member = keras.saving.load_model(demo / "model.keras")
artifact.save(
    ensemble.average_models(
        [keras.saving.load_model(demo / "model.keras") for _ in range(2)], symmetries=True
    ),
    "saved_model/voting",
    test=data.select(tiles, (demo / "test_files.txt").read_text().split()),
    parameters={"split": metadata["split"]},
    scores=metadata["scores"],
    history=pd.read_csv(demo / "history.csv"),
    temperature=1.0,
    confidence_threshold=metadata["confidence_threshold"],
    detector=outliers.fit(member, tiles),
    unfamiliarity_threshold=metadata["unfamiliarity_threshold"],
)
"""


@pytest.mark.slow
def test_inference_notebook_runs_an_ensemble_unchanged(demo_run, tmp_path):
    home = shutil.copytree(demo_run[0], tmp_path / "home")
    environment = demo_run[2]
    subprocess.run(
        [sys.executable, "-c", ENSEMBLE], cwd=home, env=environment, check=True, capture_output=True
    )
    before = pd.read_csv(home / "results" / "predictions.csv")
    parameters = ["-p", "seed", "5", "-p", "model_dir", "saved_model/voting"]
    executed = run(home, "inference.ipynb", *parameters, environment=environment)
    table = pd.read_csv(home / "results" / "predictions.csv")
    assert table.file.tolist() == before.file.tolist()
    assert table.confidence.sub(before.confidence).abs().max() > 1e-3  # another model
    assert "voting" in "".join(texts(executed))
