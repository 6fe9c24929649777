"""The record of a saved model: its checks, and which model fits which tiles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from eurosat_helpers import data, record

CLASS_NAMES = ("Urban", "Water")
TEST_NAMES = ("Urban/Urban_1.jpg", "Water/Water_2.jpg", "Water/Water_3.jpg")
SCORES = {"tiles": 3, "accuracy": 0.985, "accuracy_low": 0.98, "accuracy_high": 0.99}
SCORES |= {"calibration_error": 0.0042}
METADATA = {
    "class_names": list(CLASS_NAMES),
    "data_source": "tiles in mine",
    "split": {"seed": 0},
    "scores": {"validation": SCORES, "test": SCORES},
    "confidence_threshold": {"threshold": 0.9, "accuracy": None, "coverage": 0.5},
    "unfamiliarity_threshold": {"threshold": 12.5, "clean": 0.03, "changed": 0.04},
    "epochs": 3,
    "seconds": 90.0,
    "hardware": "a CPU",
    "command": "papermill training.ipynb out.ipynb",
    "image_size": 64,
    "input_range": [0, 255],
    "parameters": 1000,
    "temperature": 1.5,
    "versions": {"tensorflow": "2.21.0"},
    "date": "2026-01-01T00:00:00+00:00",
}


def tiles(class_names=CLASS_NAMES, names=TEST_NAMES, source="tiles in mine") -> data.Tiles:
    labels = np.array([class_names.index(name.split("/")[0]) for name in names])
    images = np.zeros((len(names), 64, 64, 3), "uint8")
    return data.Tiles(images, labels, np.array(names), class_names, source)


def fake(folder: Path, names=TEST_NAMES, **changes: object) -> Path:
    """A folder with all files of a saved model, of which only the record has content."""
    for name in record.FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "metadata.json").write_text(json.dumps({**METADATA, **changes}), "utf-8")
    (folder / "test_files.txt").write_text("\n".join(names) + "\n", "utf-8")
    return folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ('{"class_names": ["For', "Unterminated"),
        (b"\xff\xfe", "decode"),
        ("[" * 100_000, "recursion"),
        ("[]", r"`class_names` is missing or of the wrong type\. Received: None"),
        ({"scores": {"validation": SCORES}}, r"`scores\.test\.tiles` is missing"),
        ({"confidence_threshold": {}}, r"`confidence_threshold\.threshold` is missing"),
        ({"scores": {**METADATA["scores"], "corrupted": {"jpeg": 0.9}}}, r"`scores\.corrupted`"),
        ({"scores": {**METADATA["scores"], "new_places": {"tiles": 4}}}, r"`scores\.new_places`"),
        ({"epochs": "3"}, r"`epochs` .* Received: '3'"),
        ({"class_names": "Forest"}, "`class_names` .* Received: 'Forest'"),
        ({"class_names": []}, r"`class_names` must be at least one name\. Received: \[\]"),
        ({"class_names": ["A", "B", "A"]}, "`class_names` must be different"),
        ({"temperature": float("nan")}, "`temperature` .* Received: nan"),
        ({"seconds": 10**400}, "too large"),
        ({"class_names": [1, 2]}, r"`class_names` must be .* Received: \[1, 2\]"),
        ({"scores": {"validation": SCORES, "test": {**SCORES, "tiles": 4}}}, "4 test .* 3 are"),
    ],
)
def test_damaged_metadata_names_file_and_key(tmp_path, text, message):
    fake(tmp_path)
    if isinstance(text, dict):
        text = json.dumps({**METADATA, **text})
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "metadata.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"metadata\.json` is damaged: .*{message}"):
        record.read(tmp_path)


def test_what_is_missing_or_unreadable_is_named(tmp_path):
    for name in record.FILES:
        (fake(tmp_path / "model") / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"not a complete .* {name} is missing"):
            record.read(tmp_path / "model")
    (fake(tmp_path / "model") / "test_files.txt").write_bytes(b"\xff\xfe")  # a name of any bytes
    with pytest.raises(ValueError, match=r"is damaged: .* of 3 test tiles, but 1 are named"):
        record.read(tmp_path / "model")


def test_newest_model_that_fits_is_chosen_and_the_shipped_one_last(tmp_path, capsys):
    shipped = fake(tmp_path / "eurosat_cnn", date="2027")
    assert record._choose([shipped], tiles()) == shipped
    older, newer = fake(tmp_path / "b", date="2025"), fake(tmp_path / "a", date="2026")
    assert record._choose([older, newer, shipped], tiles()) == newer
    demo = fake(tmp_path / "demo", data_source="demo tiles")
    other = fake(tmp_path / "other" / "eurosat_cnn", class_names=["A", "B"])
    assert record._choose([demo, newer, other], tiles()) == newer
    assert record._choose([demo, newer, other], tiles(source="demo tiles")) == demo
    assert "Not used: `" + str(newer) in capsys.readouterr().out.splitlines()[0]
    shutil.rmtree(newer)
    for changes, problem in (
        ({"class_names": ["Forest", "Water"]}, "has classes Forest, Water"),
        ({"data_source": "demo tiles"}, "was trained on demo tiles"),
        ({"names": ("Water/Water_9.jpg", *TEST_NAMES[1:])}, "1 tiles that are not among them"),
    ):
        fake(newer, **changes)
        assert record._choose([older, newer, shipped], tiles()) == older
        assert record._choose([newer, shipped], tiles()) == shipped
        line = capsys.readouterr().out.splitlines()[0]
        assert line.startswith(f"Not used: `{newer}` ")
        assert problem in line
    (newer / "metadata.json").write_text("{")
    assert record._choose([newer, shipped], tiles()) == shipped
    assert "damaged" in capsys.readouterr().out


def test_no_model_that_fits_is_one_error_that_says_what_is_there(tmp_path):
    with pytest.raises(ValueError, match=r"classes Urban, Water: there is none\. Run training"):
        record._choose([], tiles())
    shipped, own = fake(tmp_path / "eurosat_cnn", class_names=["A", "B"]), fake(tmp_path / "demo")
    message = r"eurosat_cnn` has classes A, B; .*demo` was trained on tiles in mine\. Run training"
    with pytest.raises(ValueError, match=message):
        record._choose([shipped, own], tiles(source="demo tiles"))


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_only_a_complete_saved_model_or_nothing_is_replaceable(tmp_path):
    record.check_replaceable(tmp_path / "new")
    (tmp_path / "new").mkdir()
    record.check_replaceable(tmp_path / "new")
    model = fake(tmp_path / "model")
    (model / "assets").mkdir()
    (model / "fingerprint.pb").touch()
    (model / ".DS_Store").touch()
    (model / ".ipynb_checkpoints").mkdir()
    (model / ".ipynb_checkpoints" / "metadata-checkpoint.json").touch()
    record.check_replaceable(model)


COPY = ".ipynb_checkpoints/thesis-checkpoint.txt"  # of a file that is not the model's


def foreign_folders(home: Path):
    """Folders that hold other people's work, each with what the error says about it."""
    for name in record.FILES:
        thesis = home / name.replace("/", "-")
        (thesis / name).parent.mkdir(parents=True)
        (thesis / name).write_text("{}")
        yield thesis, "is missing"  # as in a saved model that was deleted by half
        (thesis / "thesis.txt").write_text("ten years of work")
        yield thesis, r"it holds thesis\.txt"
    for name in ("thesis.txt", "variables/thesis.txt", "assets/thesis.txt", ".thesis", COPY):
        model = fake(home / f"model-{name.replace('/', '-')}")
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("ten years of work")
        yield model, f"it holds {name}"
    other = fake(home / "other", class_names=None)
    yield other, "`class_names` is missing"
    (home / "link").symlink_to(fake(home / "target"), target_is_directory=True)
    yield home / "link", "it is a link"
    linked = fake(home / "linked")
    (linked / "assets").symlink_to(home / "target", target_is_directory=True)
    yield linked, "it holds assets"
    (home / "dangling").symlink_to(home / "nowhere")
    yield home / "dangling", "it is a link"
    (home / "file").write_text("ten years of work")
    yield home / "file", "it is a link or a file"


def test_anything_else_is_not_replaceable_and_the_error_names_it_and_the_fix(tmp_path):
    count = 0
    for folder, problem in foreign_folders(tmp_path):
        message = rf"{folder.name}` is not replaced.*{problem}.* Save under another name, or move"
        with pytest.raises(FileExistsError, match=message):
            record.check_replaceable(folder)
        count += 1
    assert count == 24


def test_scores_of_new_places_are_of_a_model_that_was_trained_without_them(tmp_path):
    folder = fake(tmp_path / "places", split={"seed": 0, "test_names": "list.txt"})
    found = record.new_places(folder, tiles())
    assert found.items() >= {**SCORES, "command": METADATA["command"]}.items()
    assert "another one" in found["model"]
    metadata = {**METADATA, "scores": {**METADATA["scores"], "new_places": found}}
    record.check(metadata, TEST_NAMES)
    match = f"must have the data and classes .* {folder}, trained on tiles in mine with Urban"
    for other in (tiles(class_names=("Water", "Urban")), tiles(source="demo tiles")):
        with pytest.raises(ValueError, match=match):
            record.new_places(folder, other)
    with pytest.raises(ValueError, match="`new_places` must be trained with `test_names`"):
        record.new_places(fake(tmp_path / "random"), tiles())
    with pytest.raises(FileNotFoundError, match="not a complete saved model"):
        record.new_places(tmp_path / "none", tiles())
