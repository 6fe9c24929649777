"""Folders and zip files of users' images: every row of the table, with the shipped model."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image

from eurosat_helpers import artifact, image_files, pixels

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def classifier() -> artifact.Classifier:
    return artifact.load(PROJECT / "saved_model" / "eurosat_cnn")


@pytest.fixture
def mine(demo_folder, tmp_path):
    """Ten tiles in class folders, and some files without a class, at several depths."""
    root = tmp_path / "mes images"
    for path in sorted(demo_folder.glob("2750/*/*_1.jpg")):
        target = root / "labelled" / path.parent.name / "2019" / path.name
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    tile = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), "uint8"))
    for name in ["été.png", "deep/er/海.WEBP", "b.tif", "Forest.png"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        tile.save(root / name, **({"lossless": True} if name.endswith("WEBP") else {}))
    (root / "broken.jpg").write_bytes((root / "labelled/River/2019/River_1.jpg").read_bytes()[:900])
    (root / "readme.txt").write_text("not an image")
    (root / ".hidden.png").write_bytes(b"")
    return root


def pack(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*"), reverse=True):
            packed.write(path, path.relative_to(folder))
    return archive


def beside_the_bar(capsys) -> list[str]:
    """What was printed, without the progress bar."""
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines if line and "file/s]" not in line]


def save(path: Path, size: tuple[int, int], color: object = None) -> np.ndarray:
    colors = RNG.integers(0, 256, (size[1], size[0], 3), "uint8")
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(colors) if color is None else Image.new("RGB", size, color)
    image.save(path)
    return np.asarray(image)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_table_has_a_row_for_each_file_and_the_classifiers_answers(
    mine, classifier, tmp_path, capsys, packed
):
    source = pack(mine, tmp_path / "mine.ZIP") if packed else mine
    table = image_files.classify(source, classifier)
    columns = ["file", "truth", "label", "confidence", "unfamiliarity", "note"]
    assert [*table] == [*columns, *classifier.class_names]
    names = ["Forest.png", "b.tif", "broken.jpg", "deep/er/海.WEBP", "été.png"]
    assert [n for n in table.file if "labelled" not in n] == names
    assert table.file.is_monotonic_increasing
    inside = table.file.str.startswith("labelled/")
    assert table.truth[inside].tolist() == sorted(classifier.class_names)
    assert (table.truth[~inside] == "").all()
    (broken,) = table.index[table.file == "broken.jpg"]
    assert table.note[broken].startswith("image file is truncated")
    assert table.label[broken] == ""
    assert table.loc[broken, ["confidence", "unfamiliarity", "River"]].isna().all()
    answered = table.drop(broken)
    images = image_files.read(source, answered)
    for row, image in zip(answered.itertuples(), images, strict=True):
        if not packed:
            np.testing.assert_array_equal(image, Image.open(mine / row.file))
    answers = classifier.serve(images)
    np.testing.assert_allclose(
        answered[list(classifier.class_names)], answers["probabilities"], atol=1e-6
    )
    np.testing.assert_allclose(answered.unfamiliarity, answers["unfamiliarity"], rtol=1e-5)
    np.testing.assert_allclose(answered.confidence, answers["probabilities"].max(1), atol=1e-6)
    said = np.array(classifier.class_names)[answers["probabilities"].argmax(1)]
    assert answered.label.tolist() == said.tolist()
    limits = classifier.metadata
    unlike = answered.unfamiliarity > limits["unfamiliarity_threshold"]["threshold"]
    unsure = answered.confidence < limits["confidence_threshold"]["threshold"]
    assert unlike.any()
    expected = np.where(unlike, "unfamiliar", np.where(unsure, "unsure", ""))
    assert answered.note.tolist() == expected.tolist()
    shown = capsys.readouterr()
    assert "15/15" in shown.out
    assert not shown.err


def test_level_2a_gets_a_clear_atmosphere(classifier, tmp_path, capsys):
    clear = RNG.integers(1, 256, (64, 64, 3), "uint8")
    clear[:9] = 0  # no data, which gets none
    Image.fromarray(clear).save(tmp_path / "a.png")
    save(tmp_path / "black.png", (64, 64), "black")
    table = image_files.classify(tmp_path, classifier, level="L2A")
    hazy = 1 + (clear - 1.0) * pixels.LET_THROUGH + pixels.HAZE
    hazy = np.rint(hazy).clip(1, 255).astype("uint8")
    hazy[:9] = 0
    probabilities = classifier.predict(hazy[None])[0]
    np.testing.assert_allclose(table[[*classifier.class_names]].loc[0], probabilities, atol=1e-5)
    np.testing.assert_array_equal(image_files.read(tmp_path, table)[0], clear)  # shown as it is
    assert "1 of 2 images are all black" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r'`level` must be "L1C" or "L2A". Received: None'):
        image_files.classify(tmp_path, classifier, level=None)


def test_real_tiles_get_the_answers_that_serve_gives(real_tiles, classifier, tmp_path, capsys):
    from eurosat_helpers import data

    tiles = data.sample(data.select(real_tiles, classifier.test_names), 300, seed=1)
    for image, name in zip(tiles.images, tiles.names, strict=True):
        path = (tmp_path / name).with_suffix(".png")
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    table = image_files.classify(tmp_path, classifier).set_index("file")
    table = table.loc[[name.replace(".jpg", ".png") for name in tiles.names]]
    wanted = classifier.predict(tiles.images)
    np.testing.assert_allclose(table[list(classifier.class_names)], wanted, atol=1e-5)
    assert table.truth.tolist() == tiles.truth.tolist()
    assert (table.truth == table.label).mean() > 0.95
    assert (table.note == "").mean() > 0.85
    assert beside_the_bar(capsys) == []  # nothing is suspicious


def test_another_size_is_refused_unless_a_parameter_says_what_to_do(classifier, tmp_path):
    save(tmp_path / "small.png", (63, 64))
    save(tmp_path / "tile.png", (64, 64))
    refused = image_files.classify(tmp_path, classifier)
    assert refused.note[0] == '63x64 pixels, not 64x64: "cut" it into windows or "scale" it'
    assert refused.label.tolist()[0] == ""
    assert refused.label[1] in classifier.class_names
    cut = image_files.classify(tmp_path, classifier, size="cut")
    assert cut.note[0] == '63x64 pixels, not 64x64, too small to cut: "scale" it'
    scaled = image_files.classify(tmp_path, classifier, size="scale")
    assert (scaled.label != "").all()
    with pytest.raises(ValueError, match=r'`size` must be None, "cut" or "scale".*\'crop\''):
        image_files.classify(tmp_path, classifier, size="crop")


def test_windows_cover_an_image_with_its_edges(classifier, tmp_path):
    whole = save(tmp_path / "Forest" / "large.png", (200, 130))
    save(tmp_path / "tile.png", (64, 64))
    table = image_files.classify(tmp_path, classifier, size="cut")
    large = table[table.file == "Forest/large.png"]
    places = [(left, top) for top in (0, 64, 66) for left in (0, 64, 128, 136)]
    assert [*zip(large.left, large.top, strict=True)] == places
    assert (large.truth == "Forest").all()
    assert table.iloc[-1][["file", "left", "top"]].tolist() == ["tile.png", 0, 0]
    windows = np.stack([whole[y : y + 64, x : x + 64] for x, y in places])
    np.testing.assert_array_equal(image_files.read(tmp_path, large), windows)
    wanted = classifier.predict(windows)
    np.testing.assert_allclose(large[list(classifier.class_names)], wanted, atol=1e-6)


def test_more_windows_than_a_batch_stay_in_order(classifier, tmp_path):
    save(tmp_path / "a.png", (64 * 18, 64 * 18))
    save(tmp_path / "b.jpg", (64, 64))
    save(tmp_path / "c.png", (640, 64))
    (tmp_path / "b0.jpg").write_bytes(b"")
    table = image_files.classify(tmp_path, classifier, size="cut")
    assert table.file.tolist() == ["a.png"] * 324 + ["b.jpg", "b0.jpg"] + ["c.png"] * 10
    rows = table.iloc[[0, 200, 323, 324, 330]]
    wanted = classifier.predict(image_files.read(tmp_path, rows))
    np.testing.assert_allclose(rows[list(classifier.class_names)], wanted, atol=1e-6)


def test_folder_in_which_no_file_can_be_used_gives_a_table_of_reasons(classifier, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "c.tif").write_bytes(b"")
    table = image_files.classify(tmp_path, classifier)
    assert table.label.tolist() == [""] * 3
    assert table.note[0] == "not a JPEG, PNG, TIFF or WebP image, or a damaged one"
    assert "No such file" in table.note[1]
    assert table[list(classifier.class_names)].isna().all(axis=None)
    assert image_files.read(tmp_path, table[:0]).shape == (0, 64, 64, 3)
    with pytest.raises(ValueError, match=r"`a.jpg` in .* cannot be shown: not a JPEG"):
        image_files.read(tmp_path, table[:1])


def test_image_that_is_gone_or_has_changed_is_not_shown(classifier, tmp_path):
    save(tmp_path / "a.png", (128, 64))
    save(tmp_path / "b.png", (128, 64))
    windows = image_files.classify(tmp_path, classifier, size="cut")
    refused = image_files.classify(tmp_path, classifier)
    save(tmp_path / "b.png", (64, 64))
    with pytest.raises(ValueError, match=r"`b.png` in .* cannot be shown: it has changed"):
        image_files.read(tmp_path, windows[3:])
    with pytest.raises(ValueError, match=r"`a.png` in .* cannot be shown: 128x64 pixels, not"):
        image_files.read(tmp_path, refused[:1])
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"`a.png` is no longer in"):
        image_files.read(tmp_path, windows[:1])


def test_zip_file_of_windows_keeps_its_folders(mine, classifier, tmp_path):
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as packed:
        for path in mine.glob("labelled/*/*/*"):
            entry = zipfile.ZipInfo()
            entry.filename = "\\".join(path.relative_to(mine).parts)
            packed.writestr(entry, path.read_bytes())
    table = image_files.classify(tmp_path / "mine.zip", classifier)
    assert table.truth.tolist() == sorted(classifier.class_names)
    assert image_files.read(tmp_path / "mine.zip", table).shape == (10, 64, 64, 3)


def test_suspicious_folder_says_why(classifier, tmp_path, capsys):
    save(tmp_path / "black.png", (64, 64), "black")
    save(tmp_path / "dark.png", (64, 64), (7, 8, 9))
    table = image_files.classify(tmp_path, classifier)
    assert len(table) == 2
    said = beside_the_bar(capsys)
    assert said[0].startswith("Note: 1 of 2 images are all black")
    assert said[1].startswith("Note: The largest value of all images is 9.")


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes of POSIX")
def test_folders_are_classes_however_a_system_writes_accents(classifier, tmp_path):
    about = {**classifier.metadata, "class_names": ["For\u00eat", *classifier.class_names[1:]]}
    french = dataclasses.replace(classifier, metadata=about)
    for number, name in enumerate(("For\u00eat", "Fore\u0302t")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        save(tmp_path / "mine" / name / f"{number}.png", (64, 64))
    table = image_files.classify(tmp_path / "mine", french)
    assert table.truth.tolist() == ["For\u00eat"] * 2


def test_pipe_does_not_hang(classifier, tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    table = image_files.classify(tmp_path, classifier)
    assert table.note.tolist() == ["not a regular file"]


def test_source_that_is_no_folder_of_images_is_an_error_with_a_remedy(classifier, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere` does not exist. Correct the path"):
        image_files.classify(tmp_path / "nowhere", classifier)
    with pytest.raises(ValueError, match=r"must hold files that end in \.jpg.*Received: 0 files$"):
        image_files.classify(tmp_path, classifier)
    (tmp_path / "scene.jp2").write_bytes(b"")
    with pytest.raises(ValueError, match=r"Received: 1 files, with the endings \.jp2"):
        image_files.classify(tmp_path, classifier)
    with pytest.raises(ValueError, match=r"must be a folder or a zip file.*scene\.jp2"):
        image_files.classify(tmp_path / "scene.jp2", classifier)
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"cut.zip` is not a complete zip file"):
        image_files.classify(tmp_path / "cut.zip", classifier)
    with zipfile.ZipFile(tmp_path / "unsafe.zip", "w") as packed:
        packed.writestr("../a.png", b"")
    with pytest.raises(ValueError, match=r"unsafe.zip` is not safe: `../a.png`"):
        image_files.classify(tmp_path / "unsafe.zip", classifier)


def test_file_of_too_many_bytes_is_refused_before_it_is_read(classifier, tmp_path):
    with (tmp_path / "a.tif").open("wb") as file:
        file.truncate(200_000_000)  # sparse: nothing is written
    table = image_files.classify(tmp_path, classifier)
    assert table.note.tolist() == ["200,000,000 bytes, more than the limit of 100,000,000"]
