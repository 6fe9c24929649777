"""The shipped model and the notebook that loads it: what they claim is what they do."""

from types import SimpleNamespace

import nbformat
import pytest
from conftest import PROJECT

from eurosat_helpers import artifact, data, evaluation

DIRECTORY = PROJECT / "saved_model" / "eurosat_cnn"


@pytest.fixture(scope="module")
def shipped():
    return artifact.load(DIRECTORY)


def test_folder_is_small():
    size = sum(path.stat().st_size for path in DIRECTORY.rglob("*") if path.is_file())
    assert size <= 30e6


def test_record_is_of_the_real_tiles(shipped):
    assert shipped.class_names == data.CLASS_NAMES
    assert shipped.metadata["data_source"] == "EuroSAT RGB"
    assert shipped.metadata["scores"]["test"]["tiles"] == 5400
    assert shipped.metadata["scores"]["test"]["accuracy"] >= 0.96


def test_documents_state_the_accuracy_and_results_the_command_of_the_record(shipped):
    for name in ("README.md", "docs/results.md"):
        text = (PROJECT / name).read_text(encoding="utf-8")
        assert f"{shipped.metadata['scores']['test']['accuracy']:.2%}".replace("%", " %") in text
    assert shipped.metadata["command"] in text


def test_no_path_of_a_machine_is_shipped():
    for name in ("metadata.json", "history.csv", "test_files.txt"):
        text = (DIRECTORY / name).read_text(encoding="utf-8")
        assert not any(word in text for word in ("/home", "/root", "/work", "/tmp", "\\"))


def test_scores_on_the_real_test_tiles_are_those_of_the_record(shipped, real_tiles):
    _, _, test = data.split(real_tiles, **shipped.metadata["split"])
    assert tuple(test.names) == shipped.test_names
    scores = evaluation.scores(test.labels, shipped.predict(test.images))
    # Another processor may round one tile in a thousand to the other side.
    assert scores["accuracy"] == pytest.approx(
        shipped.metadata["scores"]["test"]["accuracy"], abs=0.001
    )
    assert scores["calibration_error"] == pytest.approx(
        shipped.metadata["scores"]["test"]["calibration_error"], abs=0.002
    )


def test_cell_that_draws_tiles_draws_others_each_time_it_is_run(demo_tiles):
    notebook = nbformat.read(PROJECT / "inference.ipynb", as_version=4)
    (cell,) = [cell.source for cell in notebook.cells if "data.sample" in cell.source]
    classifier = SimpleNamespace(test_names=demo_tiles.names[::2])
    names = {"tiles": demo_tiles, "classifier": classifier, "data": data, "seed": None}
    drawn = []
    for _ in range(2):
        exec(f"import secrets\n{cell}", names)
        drawn.append(names["drawn"].names.tolist())
    assert drawn[0] != drawn[1]
    assert names["seed"] is None
