"""Arbitrary bytes: what reads them answers, or says what is wrong with them.

A few hundred cases by default. Ten thousand and more:
`python -m pytest tests/test_hostile.py -m "slow or not slow" --hypothesis-profile=many`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import zipfile
from functools import partial
from pathlib import Path

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import CACHE, zip_folder
from hypothesis import strategies as st
from PIL import Image
from test_artifact import IMAGES, build_model, save, some_tiles
from test_classifier import claiming
from test_record import fake

from eurosat_helpers import artifact, checkpoint, data

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")


def encode(form: str, side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.fromarray(IMAGES[0]).resize((side, side)).save(file, form)
    return file.getvalue()


@st.composite
def spoiled(draw: st.DrawFn, complete: bytes) -> bytes:
    """The bytes, cut off somewhere, or with some of them changed, removed or doubled."""
    content = bytearray(complete)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        change = draw(st.sampled_from(["byte", "remove", "double", "cut"]))
        if change == "byte":
            content[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif change == "remove":
            del content[place : place + draw(st.integers(1, 64))]
        elif change == "double":
            content[place:place] = content[place : place + draw(st.integers(1, 64))]
        else:
            del content[place:]
    return bytes(content)


ENCODED = st.one_of(
    st.binary(max_size=200),
    *(spoiled(encode(form)) for form in FORMATS),
    st.sampled_from((63, 65, 128)).map(lambda side: encode("PNG", side)),
    st.integers(1, 2**31 - 1).map(partial(claiming, encode("PNG"))),
    st.integers(1, 2**16 - 1).map(partial(claiming, encode("JPEG"))),
    st.integers(9_000, 14_000).map(partial(claiming, encode("PNG"))),  # of these Pillow only warns
)


def read_tile(folder: Path, encoded: bytes) -> np.ndarray | None:
    """Write one tile beside a good one and return its pixels, or None if it is refused by name."""
    for name, content in (("Forest", encode("PNG")), ("River", encoded)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{name}_1.jpg").write_bytes(content)
    try:
        return data.load(folder, class_names=("Forest", "River")).images[1]
    except ValueError as error:
        message = str(error)
    assert "River/River_1.jpg" in message
    return None


@hypothesis.given(ENCODED)
def test_reader_of_tiles_takes_any_bytes(tmp_path, encoded):
    image = read_tile(tmp_path, encoded)
    assert image is None or (image.shape, image.dtype) == ((64, 64, 3), np.uint8)


def cuts(encoded: bytes, every: int) -> list[bytes]:
    """The bytes cut off at `every`-th length, near the end at more."""
    lengths = range(len(encoded))
    return [encoded[:length] for length in sorted({*lengths[::every], *lengths[-60::6]})]


EVERY = pytest.mark.parametrize("every", [100, pytest.param(5, marks=pytest.mark.slow)])
FORM = pytest.mark.parametrize("form", ["JPEG", "PNG"])


@EVERY
@FORM
def test_tile_that_is_cut_off_anywhere_is_damaged(form, every, tmp_path):
    complete = encode(form)
    pixels = read_tile(tmp_path, complete).copy()
    for cut in cuts(complete, every):
        image = read_tile(tmp_path, cut)
        if image is not None:
            # Checksums and the end marker may be missing, pixels not.
            assert len(cut) >= len(complete) - 24
            np.testing.assert_array_equal(image, pixels)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return artifact.load(save(build_model(), tmp_path_factory.mktemp("hostile") / "model"))


@EVERY
@FORM
def test_graph_takes_no_image_that_is_cut_off_anywhere(classifier, form, every):
    complete = encode(form)
    answer = classifier.served.serve_jpeg(tf.constant([complete]))["probabilities"].numpy()
    for cut in cuts(complete, every):
        try:
            outputs = classifier.served.serve_jpeg(tf.constant([cut]))
        except tf.errors.InvalidArgumentError:
            continue
        assert len(cut) >= len(complete) - 24
        np.testing.assert_array_equal(outputs["probabilities"], answer)


@hypothesis.given(st.lists(ENCODED, max_size=4), st.integers(0, 4))
def test_classifier_takes_any_bytes_and_names_the_first_bad_position(classifier, others, place):
    batch = [*others[:place], encode("JPEG"), *others[place:]]
    try:
        table = classifier.predict_jpeg(batch)
    except ValueError as error:
        position = int(str(error).partition("`encoded[")[2].partition("]")[0])
        if position:
            assert len(classifier.predict_jpeg(batch[:position])) == position
        with pytest.raises(ValueError, match=r"`encoded\[0\]` must be a JPEG or PNG"):
            classifier.predict_jpeg([batch[position]])
    else:
        assert len(table) == len(batch)
        assert table["confidence"].between(0.1, 1).all()


@pytest.fixture(scope="module")
def archive(demo_folder, tmp_path_factory):
    return zip_folder(demo_folder, tmp_path_factory.mktemp("archive") / "tiles.zip").read_bytes()


@hypothesis.given(st.data())
def test_archive_of_any_bytes_is_read_or_refused(archive, tmp_path_factory, drawn):
    file = tmp_path_factory.mktemp("spoiled") / "tiles.zip"
    # The list of the members is at the end, where most of what can go wrong is.
    tail = drawn.draw(st.sampled_from([200, 8000, len(archive)]))
    file.write_bytes(archive[:-tail] + drawn.draw(spoiled(archive[-tail:])))
    message = ""
    try:
        assert data.load(file.parent).images.shape[1:] == (64, 64, 3)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
    assert not message or str(file.parent) in message
    shutil.rmtree(file.parent)


@pytest.fixture(scope="module")
def cached(demo_folder, tmp_path_factory):
    """A folder, its tiles, and the content of its cache."""
    folder = shutil.copytree(demo_folder, tmp_path_factory.mktemp("cache") / "tiles")
    tiles = data.load(folder)
    return folder, tiles, (folder / CACHE).read_bytes()


@hypothesis.given(st.data())
def test_cache_of_any_bytes_is_right_or_made_again(cached, drawn):
    folder, whole, content = cached
    head = drawn.draw(st.sampled_from([200, 5000, len(content)]))
    (folder / CACHE).unlink(missing_ok=True)  # its pixels are mapped into memory
    (folder / CACHE).write_bytes(drawn.draw(spoiled(content[:head])) + content[head:])
    tiles = data.load(folder)
    np.testing.assert_array_equal(tiles.images, whole.images)
    assert tiles.names.tolist() == whole.names.tolist()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose state is in a file, and the content of that file."""
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(40)])  # above 4 kB
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    tiles = some_tiles()
    run = checkpoint.Run(tmp_path_factory.mktemp("run"), model, tiles, tiles, {"seed": 1})
    run.write(rows=np.ones((2, 3)), best=[np.float64(0.5), *model.get_weights()])
    return run, run.file.read_bytes()


@hypothesis.given(st.data())
def test_checkpoint_of_any_bytes_is_read_or_refused(run, drawn):
    run, content = run
    run.file.write_bytes(drawn.draw(spoiled(content)))
    before, message = [variable.numpy() for variable in run.model.variables], ""
    try:
        rows, best = run.read()
        np.testing.assert_array_equal(rows, np.ones((2, 3)))
        assert best[0] == 0.5
        for array, expected in zip(best[1:], before, strict=True):
            np.testing.assert_array_equal(array, expected)
    except ValueError as error:
        message = str(error)
    assert not message or str(run.file) in message
    for variable, expected in zip(run.model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, expected)


def test_checkpoint_with_one_changed_bit_is_refused(run):
    run, content = run
    for place in range(0, len(content), 7):
        wrong = bytearray(content)
        wrong[place] ^= 1 << place % 8
        run.file.write_bytes(wrong)
        with pytest.raises(ValueError, match="is damaged: its checksum is wrong"):
            run.read()
    run.file.write_bytes(content)
    run.read()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


KEYS = [("class_names",), ("temperature",), ("split", "seed"), ("scores", "test"), ("new",)]


@hypothesis.given(st.data())
def test_metadata_of_any_content_is_read_or_refused(tmp_path_factory, drawn):
    """Without a graph: a record that is accepted leads to the error about the empty graph."""
    folder = fake(tmp_path_factory.getbasetemp() / "metadata", class_names=["Forest", "River"])
    file = folder / "metadata.json"
    metadata = json.loads(file.read_text())
    if drawn.draw(st.booleans()):
        *parents, last = drawn.draw(st.sampled_from(KEYS))
        place = metadata
        for key in parents:
            place = place[key]
        place[last] = drawn.draw(JSON)
        file.write_text(json.dumps(metadata))
    else:
        file.write_bytes(drawn.draw(spoiled(file.read_bytes())))
    with pytest.raises(ValueError, match=r"metadata\.json` is damaged|saved_model\.pb") as error:
        artifact.load(folder)
    if "metadata.json" not in str(error.value):
        accepted = artifact.Classifier(folder, json.loads(file.read_text()), (), None)
        assert not accepted.card().empty
        assert accepted.class_names


def test_pipe_and_device_are_no_tiles(folder):
    forest = folder / "2750" / "Forest"
    os.mkfifo(forest / "Forest_7.jpg")
    (forest / "Forest_8.jpg").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"`Forest/Forest_7.jpg` .* is a bad tile: .*regular"):
        data.load(folder)
    assert data.load(folder, on_error="skip").skipped == (
        "Forest/Forest_7.jpg",
        "Forest/Forest_8.jpg",
    )


def test_link_to_nothing_is_no_tile(folder):
    (folder / "2750" / "Forest" / "Forest_7.jpg").symlink_to(folder / "nothing")
    with pytest.raises(ValueError, match=r"`Forest/Forest_7.jpg` .* is a bad tile: .*No such file"):
        data.load(folder)


def test_link_in_an_archive_is_not_followed(folder, tmp_path):
    file = zip_folder(folder, tmp_path / "links" / "tiles.zip")
    link = zipfile.ZipInfo("2750/Forest/Forest_7.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(file, "a") as members:
        members.writestr(link, str(folder / "2750" / "Forest" / "Forest_1.jpg"))
    with pytest.raises(ValueError, match=r"`Forest/Forest_7.jpg` .* is a bad tile: .*JPEG or PNG"):
        data.load(file.parent)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_file_that_unpacks_to_far_too_much_is_refused_unread(folder, tmp_path, packed):
    (folder / "2750" / "Forest" / "Forest_7.jpg").write_bytes(bytes(2_000_000))
    if packed:
        file = tmp_path / "bomb" / "tiles.zip"
        file.parent.mkdir()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members:
            for path in sorted(folder.glob("2750/*/*")):
                members.write(path, path.relative_to(folder))
        folder = file.parent
    with pytest.raises(ValueError, match="2,000,000 bytes, more than the 1,000,000 that a tile"):
        data.load(folder)
