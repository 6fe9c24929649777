"""The panel of widgets: each control does what it says, without a browser."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil

import keras
import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image

from eurosat_helpers import artifact, data, explorer, pixels

SHIPPED = PROJECT / "saved_model" / "eurosat_cnn"


@pytest.fixture(scope="module")
def classifier():
    return artifact.load(SHIPPED)


@pytest.fixture
def panel(classifier, demo_tiles):
    return explorer.Explorer(classifier, data.sample(demo_tiles, 100, seed=0))


def shown(panel):
    return [button.description for _, button in (cell.children for cell in panel.grid.children)]


def dropped(panel, name, content):
    panel.file._handle_custom_msg({"name": name}, [memoryview(content)])  # as from the browser


def test_tiles_of_other_classes_are_refused(classifier, demo_tiles):
    other = dataclasses.replace(demo_tiles, class_names=demo_tiles.class_names[::-1])
    with pytest.raises(ValueError, match=r"`tiles` must have the classes .*AnnualCrop"):
        explorer.Explorer(classifier, other)


def test_it_begins_with_mistakes_and_can_show_all(panel):
    assert shown(panel)
    assert all(text.startswith("✗") for text in shown(panel))
    panel.mistakes.value = False
    assert len(shown(panel)) == explorer.SHOWN


def test_one_class_only(panel):
    panel.mistakes.value, panel.which.value = False, "River"
    assert set(panel.tiles.truth[panel.places]) == {"River"}
    assert len(panel.places) == 10


def test_other_tiles_are_drawn_and_the_first_draw_is_seeded(panel):
    before = panel.places
    panel.another.click()
    assert list(before) != list(panel.places)
    again = explorer.Explorer(panel.classifier, panel.tiles)
    np.testing.assert_array_equal(again.places, before)


def test_threshold_marks_unsure_answers_and_leaves_the_tiles(panel):
    before = panel.grid.children
    panel.threshold.value = 0
    assert not any("?" in text for text in shown(panel))
    assert "100.0% are sure" in panel.sentence.value
    panel.threshold.value = 1
    assert all("?" in text for text in shown(panel))
    assert "none are right" in panel.sentence.value
    assert panel.grid.children == before


def test_threshold_that_nothing_reaches_leaves_all_unsure(classifier, demo_tiles):
    limit = {"threshold": float(np.nextafter(np.float32(1), np.float32(2)))}
    metadata = classifier.metadata | {"confidence_threshold": limit}
    unsure = dataclasses.replace(classifier, metadata=metadata)
    assert "0.0% are sure" in explorer.Explorer(unsure, demo_tiles[:50]).sentence.value


def test_unfamiliar_tiles_are_marked(classifier, demo_tiles):
    strict = {"unfamiliarity_threshold": {"threshold": -1.0}}
    marked = dataclasses.replace(classifier, metadata=classifier.metadata | strict)
    assert all("!" in text for text in shown(explorer.Explorer(marked, demo_tiles[:50])))
    lenient = {"unfamiliarity_threshold": {"threshold": np.inf}}
    unmarked = dataclasses.replace(classifier, metadata=classifier.metadata | lenient)
    assert not any("!" in text for text in shown(explorer.Explorer(unmarked, demo_tiles[:50])))


def test_click_explains_a_tile_and_the_next_draw_removes_it(panel):
    panel.grid.children[0].children[1].click()
    (picture,) = panel.detail.children
    assert Image.open(io.BytesIO(picture.value)).width == 1000
    panel.another.click()
    assert panel.detail.children == ()


def test_file_is_answered_whatever_its_size(panel):
    Image.fromarray(panel.tiles.images[0]).resize((90, 70)).save(file := io.BytesIO(), "PNG")
    dropped(panel, "mine.png", file.getvalue())
    assert Image.open(io.BytesIO(panel.detail.children[0].value)).width == 1000


def test_file_of_level_2a_gets_an_atmosphere_and_unsure_answers_say_so(panel, monkeypatch):
    titles, asked = [], []
    real = panel.classifier.serve
    hazy = explorer.Explorer(panel.classifier, panel.tiles[:5], level="L2A")
    for one in (panel, hazy):
        one.threshold.value = 1.0
        monkeypatch.setattr(one, "_show", lambda *shown: titles.append(shown[2]))
    monkeypatch.setattr(
        artifact.Classifier, "serve", lambda _, images: asked.append(images) or real(images)
    )
    Image.fromarray(panel.tiles.images[0]).save(file := io.BytesIO(), "PNG")
    for one in (panel, hazy):
        dropped(one, "mine.png", file.getvalue())
    np.testing.assert_array_equal(asked[0], panel.tiles.images[:1])
    np.testing.assert_array_equal(asked[1], pixels.as_level_1c(panel.tiles.images[:1]))
    assert all(title.endswith(", unsure") for title in titles)


def test_file_that_is_no_image_is_named(panel):
    dropped(panel, "<b>.txt", b"no image")
    assert panel.detail.children[0].value.startswith("&lt;b&gt;.txt cannot be used: not a JPEG")


def test_damaged_file_is_named_whatever_pillow_raises(panel):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), "uint8")
    Image.fromarray(noise).save(file := io.BytesIO(), "PNG")
    first, *parts = file.getvalue().split(b"IDAT")
    dropped(panel, "mine.png", first + b"IDAT" + parts[0] + b"\xff\0\xff\0" + parts[1])
    assert "mine.png cannot be used: broken PNG" in panel.detail.children[0].value


def test_ensemble_without_convolutions_of_its_own_shows_its_probabilities(panel):
    inputs = keras.Input((64, 64, 3))
    panel.model = keras.Model(
        inputs, keras.Sequential([panel.model, keras.layers.Softmax()])(inputs)
    )
    panel.grid.children[0].children[1].click()
    assert Image.open(io.BytesIO(panel.detail.children[0].value)).width == 1000


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("before", "the saved model was replaced or is gone: load it again)"),
        ("meanwhile", "the saved model was replaced or is gone: load it again)"),
        ("gone", "the saved model was replaced or is gone: load it again)"),
        ("never, but of unknown layers", "its model.keras cannot be read)"),
    ],
)
def test_model_that_was_replaced_on_disk_explains_nothing(
    tmp_path, demo_tiles, monkeypatch, when, said
):
    copy = shutil.copytree(SHIPPED, tmp_path / "mine")
    panel = explorer.Explorer(artifact.load(copy), demo_tiles[:50])
    read, draw, drawn = keras.saving.load_model, explorer.plots.explanations, {}

    def replace():
        record = json.loads((copy / "metadata.json").read_text(encoding="utf-8"))
        text = json.dumps(record | {"date": "2030-01-01T00:00:00+00:00"})
        (copy / "metadata.json").write_text(text, encoding="utf-8")

    def load_model(*arguments, **settings):
        if when == "meanwhile":
            replace()
        if when.startswith("never"):
            raise ValueError("unknown layer")
        return read(*arguments, **settings)

    def explanations(images, maps, *rest, title):
        drawn.update(title=title, maps=maps)
        return draw(images, maps, *rest, title=title)

    monkeypatch.setattr(keras.saving, "load_model", load_model)
    monkeypatch.setattr(explorer.plots, "explanations", explanations)
    if when == "before":
        replace()
    if when == "gone":
        shutil.rmtree(copy)
    panel.mistakes.value = False
    panel.grid.children[0].children[1].click()
    assert f"({said}" in drawn["title"]
    assert drawn["maps"] == {}


def test_picture_takes_its_place_where_widgets_cannot_run(panel):
    bundle = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert Image.open(io.BytesIO(bundle["image/png"])).width == 1000
