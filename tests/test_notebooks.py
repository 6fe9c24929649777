"""How the committed notebooks look, and a real run of the pair on demo tiles."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile

import nbformat
import pandas as pd
import pytest
from conftest import PROJECT, write_demo

PAIR = ("training.ipynb", "inference.ipynb")
EXAMPLES = ("improvements", "look_closer", "map_a_scene")
NOTEBOOKS = (*PAIR, *(f"examples/{name}.ipynb" for name in EXAMPLES))


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


def environment_of_a_newcomer():
    """Variables without ours, and without a network."""
    ours = {"EUROSAT_ARCHIVE", "MPLBACKEND", "TF_CPP_MIN_LOG_LEVEL"}  # a newcomer has none of them
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    nowhere = "http://127.0.0.1:9"  # a proxy that nobody runs: no address can be reached
    return environment | {
        "HTTPS_PROXY": nowhere,
        "https_proxy": nowhere,
        "NO_PROXY": "",
        "no_proxy": "",
    }


def copy_project(home):
    """Copy what a newcomer has to `home`, and return an environment without a network."""
    (home / "results").mkdir(parents=True)
    for name in (*PAIR, "eurosat_helpers"):
        source = PROJECT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, home / name)
    shipped = home / "saved_model" / "eurosat_cnn"
    shutil.copytree(PROJECT / "saved_model" / "eurosat_cnn", shipped)
    return environment_of_a_newcomer()


SMALL = ("-p", "epochs", "2", "-y", "{widths: [8, 16, 16, 16]}")


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory, demo_folder):
    """The project as a newcomer has it, run with no data and no network: two small epochs."""
    home = tmp_path_factory.mktemp("newcomer") / "projét with spaces"
    environment = copy_project(home)
    mine = shutil.copytree(demo_folder / "2750", home / "mes images" / "labelled")
    shutil.copy(mine / "River" / "River_1.jpg", home / "mes images")
    (home / "mes images" / "broken.png").write_bytes(b"not an image")
    before = checksums(home)
    run(home, "training.ipynb", *SMALL, environment=environment)
    images = ("-p", "images", "mes images", "-p", "image_size", "cut")
    run(home, "inference.ipynb", "-p", "seed", "5", *images, environment=environment)
    return home, before


@pytest.mark.parametrize("name", PAIR)
def test_demo_run_is_clean_and_says_demo_on_every_figure(demo_run, name):
    home, _ = demo_run
    notebook = nbformat.read(home / "results" / name, as_version=4)
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.get("name") != "stderr", output.get("text")
    assert "DEMO TILES" in "".join(texts(notebook))
    assert figures(notebook)


@pytest.mark.slow
def test_look_closer_runs_with_the_shipped_model(real_tiles, tmp_path):
    assert len(real_tiles) == 27_000
    command = [sys.executable, "-m", "papermill", "look_closer.ipynb", tmp_path / "out.ipynb"]
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    done = subprocess.run(
        command, cwd=PROJECT / "examples", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(figures(nbformat.read(tmp_path / "out.ipynb", as_version=4))) == 5


def test_every_title_in_the_notebooks_names_the_source_of_the_tiles(committed):
    for cell in code_cells(committed):
        if "plots." in cell.source:
            assert "title=" in cell.source
        if "title=" in cell.source:
            named = ("tiles.source", "{credit}", "title=credit", "{source}")
            assert any(word in cell.source for word in named), cell.source


def test_demo_run_saves_the_demo_model_and_touches_nothing_else(demo_run):
    home, before = demo_run
    after = checksums(home)
    assert {name: after.get(name) for name in before} == before
    new = {path for path in set(after) - set(before) if "__pycache__" not in path.parts}
    assert {path.parts[0] for path in new} == {"checkpoints", "results", "saved_model"}
    saved = {path.parts[1] for path in new if path.parts[0] == "saved_model"}
    assert saved == {"demo", ".demo.lock"}
    results = {path.name for path in new if path.parts[0] == "results"} - {".lock"}
    assert results == {*PAIR, "predictions.csv", "predictions.png", "images.csv"}


def test_demo_run_predicts_twenty_tiles(demo_run):
    home, _ = demo_run
    table = pd.read_csv(home / "results" / "predictions.csv")
    assert list(table.columns[:4]) == ["file", "truth", "prediction", "confidence"]
    assert len(table) == 20
    assert (table.truth.value_counts() == 2).all()
    unseen = (home / "saved_model" / "demo" / "test_files.txt").read_text().split()
    assert set(table.file) <= set(unseen)


def test_demo_run_classifies_images_of_ones_own(demo_run):
    home, _ = demo_run
    table = pd.read_csv(home / "results" / "images.csv", keep_default_na=False)
    assert len(table) == 62
    assert table.truth.ne("").sum() == 60
    assert table[table.file == "broken.png"].note.str.startswith("not a JPEG").all()
    executed = nbformat.read(home / "results" / "inference.ipynb", as_version=4)
    shown = "".join(texts(executed))
    assert "60 images in folders with the name of a class" in shown
    assert "sure answers correct" in shown
    assert len(figures(executed)) == 4  # the 20 tiles, the picture of the panel, two of the images


@pytest.fixture(scope="module")
def run_twice(tmp_path_factory):
    """The training notebook with each cell twice, on few tiles of one's own: its cells and home."""
    home = tmp_path_factory.mktemp("twice") / "home"
    environment = copy_project(home)
    write_demo(home / "mine", tiles_per_class=20)
    notebook = nbformat.read(home / "training.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source]
    twice = [cells[0], *(cell for cell in cells[1:] for _ in range(2))]  # papermill finds the first
    notebook.cells = [nbformat.from_dict({**cell, "id": f"c{n}"}) for n, cell in enumerate(twice)]
    nbformat.write(notebook, home / "twice.ipynb")
    mine = ("-p", "data_dir", "mine", *SMALL)
    return run(home, "twice.ipynb", *mine, environment=environment), home, environment


@pytest.mark.slow
def test_each_cell_runs_twice_with_the_same_result(run_twice):
    """The finished training is not repeated."""
    executed, home, _ = run_twice
    assert "This run is finished." in "".join(texts(executed))
    cells = [cell for cell in code_cells(executed) if not cell.metadata.get("tags")]
    for first, again in zip(cells[::2], cells[1::2], strict=True):
        assert first.source == again.source
        if not first.source.startswith(("if not", "pairs =")):  # which show seconds and a date
            shown = [
                [output.get("data", {}).get("text/plain") for output in cell.outputs]
                for cell in (first, again)
            ]
            assert shown[0] == shown[1], first.source
    assert {path.name for path in (home / "saved_model").iterdir()} >= {"eurosat_cnn", "my_model"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("{new_places: saved_model/my_model}", "`new_places` must be trained with `test_names`"),
        ("{model_name: notes}", "saved_model/notes` is not replaced"),
    ],
)
def test_training_refuses_before_it_trains(run_twice, parameters, message):
    _, home, environment = run_twice
    (home / "saved_model" / "notes").mkdir(exist_ok=True)
    (home / "saved_model" / "notes" / "notes.txt").write_text("mine")
    command = [sys.executable, "-m", "papermill", "training.ipynb", "results/refused.ipynb"]
    command += ["-p", "data_dir", "mine", *SMALL, "-y", parameters]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr
    assert {path.name for path in (home / "checkpoints").iterdir()} == {"my_model"}


def assert_refused(run_twice, place, before, message):
    """Run the notebook as if the code `before` had run before the cell that holds `place`."""
    _, home, environment = run_twice
    notebook = nbformat.read(home / "training.ipynb", as_version=4)
    cell = next(cell for cell in code_cells(notebook) if place in cell.source)
    cell.source = f"{before}\n{cell.source}"
    nbformat.write(notebook, home / "other.ipynb")
    saved = checksums(home / "saved_model" / "my_model")
    command = [sys.executable, "-m", "papermill", "other.ipynb", "results/other.ipynb"]
    command += ["-p", "data_dir", "mine", *SMALL]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert message in done.stderr
    assert checksums(home / "saved_model" / "my_model") == saved


def source_of_cell(run_twice, text):
    return next(cell.source for cell in code_cells(run_twice[0]) if text in cell.source)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["np.allclose(now", "calibration.fit_temperature("])
def test_network_that_was_not_trained_and_evaluated_is_not_saved(run_twice, place):
    """Built again before it is saved, or before it is evaluated."""
    built = source_of_cell(run_twice, "models.build_cnn(")
    assert_refused(run_twice, place, built, "`model` is not the one that was evaluated")


@pytest.mark.slow
def test_settings_that_changed_after_the_split_are_not_recorded(run_twice):
    changed = f"dropout = 0.5\n{source_of_cell(run_twice, 'parameters = {')}"
    message = "The settings have changed: run the cells from Split on."
    assert_refused(run_twice, "history = training.fit(", changed, message)


ENSEMBLE = """
import json
from pathlib import Path

import keras
import pandas as pd

from eurosat_helpers import artifact, data, outliers
from eurosat_helpers.improvements import ensemble

mine = Path("saved_model/my_model")
metadata = json.loads((mine / "metadata.json").read_text())
tiles = data.load("mine")
test = data.select(tiles, (mine / "test_files.txt").read_text().split())
member = keras.saving.load_model(mine / "model.keras")
artifact.save(
    ensemble.average_models(
        [keras.saving.load_model(mine / "model.keras") for _ in range(2)], symmetries=True
    ),
    "saved_model/voting",
    test=test,
    parameters={"split": metadata["split"]},
    scores=metadata["scores"],
    history=pd.read_csv(mine / "history.csv"),
    temperature=1.0,
    confidence_threshold=metadata["confidence_threshold"],
    detector=outliers.fit(member, tiles),
    unfamiliarity_threshold=metadata["unfamiliarity_threshold"],
)
rows = {name: artifact.load(f"saved_model/{name}").predict(test.images) for name in
        ("my_model", "voting")}
table = {name: dict(zip(test.names, row.max(axis=1).tolist())) for name, row in rows.items()}
Path("confidence.json").write_text(json.dumps(table))
"""


@pytest.mark.slow
def test_inference_notebook_runs_an_ensemble_unchanged(run_twice):
    _, home, environment = run_twice
    subprocess.run(
        [sys.executable, "-c", ENSEMBLE], cwd=home, env=environment, check=True, capture_output=True
    )
    parameters = ["-p", "data_dir", "mine", "-p", "model_dir", "saved_model/voting"]
    executed = run(home, "inference.ipynb", *parameters, environment=environment)
    table = pd.read_csv(home / "results" / "predictions.csv").set_index("file")
    confidence = pd.DataFrame(json.loads((home / "confidence.json").read_text()))
    confidence = confidence.loc[table.index]
    assert table.confidence.sub(confidence["voting"]).abs().max() < 1e-4
    assert table.confidence.sub(confidence["my_model"]).abs().max() > 1e-3  # another model
    assert "voting" in "".join(texts(executed))
    with zipfile.ZipFile(home / "results" / "sample.zip") as sample:  # where no images are given
        assert len(pd.read_csv(home / "results" / "images.csv")) == len(sample.namelist())
