"""Tests of eurosat_helpers.scenes: small scenes through the shipped model."""

import math
import os
import re
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
from affine import Affine
from conftest import PROJECT
from rasterio.enums import ColorInterp

from eurosat_helpers import artifact, data, files, pixels, plots, scenes
from eurosat_helpers.scenes import doubts, opening, sweeping

SCENES = os.environ.get("EUROSAT_SCENES")
GREY = {"scale": 0.275 / 254, "offset": -0.275 / 254, "level": "L1C"}  # of tiles as they are
UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 5e5, 0, -10, 5e6)}


@pytest.fixture(scope="module")
def classifier():
    return artifact.load(PROJECT / "saved_model" / "eurosat_cnn")


@pytest.fixture(scope="module")
def mosaic(demo_tiles):
    """Three rows of four tiles, `(192, 256, 3)`."""
    tiles = demo_tiles.images[::5][:12].reshape(3, 4, 64, 64, 3)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(192, 256, 3)


def write(file, pixels, *, tags=None, descriptions=None, mask=None, **options):
    layers = np.moveaxis(np.atleast_3d(pixels), -1, 0)
    size = dict(zip(("count", "height", "width"), layers.shape, strict=True))
    options = {"driver": "GTiff", "dtype": layers.dtype, **UTM, **size, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(file, "w", **options) as scene:
            scene.write(layers)
            if tags:
                scene.scales, scene.offsets = ([value] * len(layers) for value in tags)
            if mask is not None:
                scene.write_mask(mask)
            for band, text in enumerate(descriptions or (), start=1):
                scene.set_band_description(band, text)
    return file


def numbers(mosaic, scale=1e-4, offset=0.0):
    """Digital numbers of a product whose gray levels are those of the mosaic."""
    return np.rint(((mosaic - 1.0) * 0.275 / 254 - offset) / scale)


def test_map_of_a_mosaic_has_the_answers_of_its_tiles(classifier, mosaic, demo_tiles, tmp_path):
    source, output = write(tmp_path / "scene.tif", mosaic), tmp_path / "maps" / "map.tif"
    found = scenes.classify(source, classifier, output, stride=64, **GREY)
    answers = classifier.serve(demo_tiles.images[::5][:12])
    probabilities = answers["probabilities"].reshape(3, 4, 10)
    np.testing.assert_array_equal(found.classes, probabilities.argmax(axis=-1))
    np.testing.assert_allclose(found.confidence, probabilities.max(axis=-1), atol=1e-5)
    threshold = classifier.metadata["unfamiliarity_threshold"]["threshold"]
    unfamiliarity = answers["unfamiliarity"].reshape(3, 4) / threshold
    np.testing.assert_allclose(found.unfamiliarity, unfamiliarity, rtol=1e-4)
    assert found.areas()["hectares"].sum() == pytest.approx(12 * 40.96)
    with rasterio.open(output) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (file.nodata, file.crs.to_epsg(), file.count) == (255, 32632, 3)
        assert file.transform == Affine(640, 0, 5e5, 0, -640, 5e6)
        np.testing.assert_array_equal(file.read(1), found.classes)
        np.testing.assert_array_equal(file.read(2), np.rint(100 * found.confidence))
        expected = np.minimum(np.rint(100 * found.unfamiliarity), 254)
        np.testing.assert_array_equal(file.read(3), expected)
        assert "eurosat_cnn" in file.tags()["model"]
        assert file.tags()["stride"] == "64"
        assert re.match(r"digital number \* \[0\.00108", file.tags()["reflectance"])
        assert (file.tags()["scale_from"], file.tags()["level_from"]) == ("arguments", "arguments")
        assert "9 SeaLake" in file.tags()["classes"]
        red = int(plots.CLASS_COLORS[1][1:3], 16)
        assert file.colormap(1)[1][0] == red
    names = (output.parent / "map.tif.aux.xml").read_text()
    assert names.count("<Category>") == 10
    leftovers = {path.name for path in output.parent.iterdir()} - {"map.tif", "map.tif.aux.xml"}
    assert leftovers <= {".lock"}


def test_names_of_another_map_are_never_beside_a_new_one(classifier, mosaic, tmp_path, monkeypatch):
    """A process that is killed between map and names leaves no names."""
    source, output = write(tmp_path / "scene.tif", mosaic), tmp_path / "map.tif"
    scenes.classify(source, classifier, output, stride=64, **GREY)
    names = output.with_name("map.tif.aux.xml")
    names.write_text("names of another model")
    real = files.write

    def killed(file, content):
        if file == names:
            raise KeyboardInterrupt
        real(file, content)

    monkeypatch.setattr(files, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        scenes.classify(source, classifier, output, stride=64, **GREY)
    assert output.exists()
    assert not names.exists()


def test_files_beside_a_map_are_replaced_with_it_or_not_at_all(
    classifier, mosaic, tmp_path, monkeypatch
):
    source, output = write(tmp_path / "scene.tif", mosaic), tmp_path / "map.tif"
    scenes.classify(source, classifier, output, stride=64, **GREY)
    output.with_name("map.tif.ovr").write_text("an overview of this map")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path != source}
    real = files.write

    def full(file, content):
        if file == output:
            raise OSError("No space left on device")
        real(file, content)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write", full)
        with pytest.raises(OSError, match="No space left"):
            scenes.classify(source, classifier, output, stride=64, **GREY)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path != source}
    assert {name: after[name] for name in before} == before
    scenes.classify(source, classifier, output, stride=64, **GREY)
    left = {path.name for path in tmp_path.iterdir()} - {".lock"}
    assert left == {"scene.tif", "map.tif", "map.tif.aux.xml"}


def test_map_of_a_mosaic_of_real_tiles_has_exactly_their_answers(classifier, real_tiles, tmp_path):
    tiles = data.sample(data.select(real_tiles, classifier.test_names), 1600, seed=0)
    rows = tiles.images.reshape(40, 40, 64, 64, 3).transpose(0, 2, 1, 3, 4)
    source = write(tmp_path / "scene.tif", rows.reshape(2560, 2560, 3))
    found = scenes.classify(source, classifier, tmp_path / "map.tif", stride=64, **GREY)
    probabilities = classifier.predict(tiles.images)
    np.testing.assert_array_equal(found.classes.ravel(), probabilities.argmax(axis=1))
    np.testing.assert_allclose(found.confidence.ravel(), probabilities.max(axis=1), atol=1e-5)
    assert (found.classes.ravel() == tiles.labels).mean() > 0.96


def test_lossless_jp2_is_read_as_the_same_scene(mosaic, tmp_path):
    options = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES", "YCBCR420": "NO"}
    layers = [numbers(mosaic)[..., index].astype(np.uint16) for index in range(3)]
    names = [tmp_path / f"T30UVC_{band}.jp2" for band in opening.BANDS]
    files = [write(name, one, **options) for name, one in zip(names, layers, strict=True)]
    gray, valid = opening.open_scene(files, scale=1e-4).read()
    np.testing.assert_array_equal(gray, np.maximum(mosaic, 1))
    assert valid.all()


@pytest.mark.parametrize("stride", [24, 32, 64])
def test_cell_is_the_mean_of_the_windows_that_cover_it_up_to_the_edges(
    classifier, mosaic, tmp_path, stride
):
    pixels = mosaic[:150, :170]
    source = write(tmp_path / "scene.tif", pixels)
    found = scenes.classify(source, classifier, tmp_path / "map.tif", stride=stride, **GREY)
    tops, lefts = ([*range(0, side - 64, stride), side - 64] for side in (150, 170))
    places = [(top, left) for top in tops for left in lefts]
    answers = classifier.predict(np.stack([pixels[y : y + 64, x : x + 64] for y, x in places]))
    assert found.classes.shape == (-(-150 // stride), -(-170 // stride))
    for (row, column), confidence in np.ndenumerate(found.confidence):
        y, x = row * stride, column * stride
        y_end, x_end = min(y + stride, 150), min(x + stride, 170)
        covering = [
            top <= y and y_end <= top + 64 and left <= x and x_end <= left + 64
            for top, left in places
        ]
        assert any(covering)
        assert confidence == pytest.approx(answers[covering].mean(axis=0).max(), abs=1e-4)
    assert found.hectares.sum() == pytest.approx(150 * 170 / 100)


PRODUCTS = {
    "uint16, tags": (np.uint16, (1e-4, -0.1), {}),
    "int16, tags in thousandths": (np.int16, (1e-3, 0.0), {}),
    "float32, arguments": (np.float32, (1.0, 0.0), {"scale": 1.0}),
    "uint16, arguments before tags": (np.uint16, (1e-4, -0.1), {"scale": 1e-4, "offset": -0.1}),
}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_every_product_gives_the_gray_levels_of_the_makers(classifier, mosaic, tmp_path, kind):
    dtype, (scale, offset), arguments = PRODUCTS[kind]
    tags = (1e-4, 0.0) if arguments else (scale, offset)
    product = write(
        tmp_path / "scene.tif",
        numbers(mosaic, scale, offset).astype(dtype)
        if dtype != np.float32
        else ((mosaic - 1) * np.float32(0.275 / 254)),
        tags=tags,
    )
    options = {"stride": 64, "level": "L1C", **arguments}
    found = scenes.classify(product, classifier, tmp_path / "map.tif", **options)
    expected = classifier.predict(np.stack(np.split(mosaic[:64], 4, axis=1)))
    # Thousandths of the reflectance are as wide as a gray level.
    tolerance = 0.3 if scale == 1e-3 else 0.05
    np.testing.assert_allclose(found.confidence[0], expected.max(axis=1), atol=tolerance)


def test_reading_is_the_scaling_of_the_makers(tmp_path):
    digital = np.tile(np.arange(0, 4096, dtype=np.uint16).reshape(64, 64, 1), 3)
    file = write(tmp_path / "scene.tif", digital, tags=(1e-4, 0.0))
    gray, valid = opening.open_scene(file).read()
    # gdal_translate -scale 0 2750 1 255
    expected = np.clip(np.rint(1 + digital * (254 / 2750)), 1, 255)
    expected[0, :6] = 0  # 0, and what lossy compression makes of it, stand for no data
    np.testing.assert_array_equal(gray, expected)
    assert (~valid).sum() == 6


def test_true_color_image_is_known_by_its_name(mosaic, tmp_path):
    (tmp_path / "L2A").mkdir()  # the folder of a user says nothing
    for name, said_by, white, level in (
        ("T32TQM_20240704T101559_TCI.tif", "name", 0.3558, "L1C"),
        ("T32TQM_20240704T101559_TCI_10m.tif", "name", 0.2, "L2A"),
        ("my_tci_l2a.tif", "name", 0.2, "L2A"),
    ):
        file = write(tmp_path / "L2A" / name, mosaic)
        scene = opening.open_scene(file)
        assert (scene.said_by, scene.level) == (said_by, level)
        assert scene.scale[0] * 255 == pytest.approx(white)
        assert opening.open_scene(file, level="L2A").scale[0] * 255 == pytest.approx(0.2)
    file = write(tmp_path / "L2A" / "TCI.tif", mosaic)  # its white may be 0.2 or 0.3558
    with pytest.raises(ValueError, match=r"`level` must be given for a true-color image.*TCI.tif"):
        opening.open_scene(file)
    assert opening.open_scene(file, level="L1C").scale[0] * 255 == pytest.approx(0.3558)
    assert opening.open_scene(file, scale=0.001).scale == (0.001,) * 3
    for name in ("eastcity.tif", "eastcity_L1C.tif", "Mantci2.tif"):  # a word that holds TCI
        assert opening.open_scene(write(tmp_path / name, mosaic)).said_by == "assumed"


@pytest.mark.parametrize("level", ["L1C", "L2A", "L2A of 2017"])
def test_safe_folder_is_read_with_the_offset_of_its_metadata(mosaic, tmp_path, level):
    level, _, old = level.partition(" of ")
    folder = tmp_path / "renamed_L3.SAFE"  # the XML says the level
    images = folder / "GRANULE" / "L_T32" / "IMG_DATA" / ("R10m" if level == "L2A" else ".")
    images.mkdir(parents=True)
    suffix = "_10m" if level == "L2A" else ""
    for index, band in enumerate(("B04", "B03", "B02")):
        layer = numbers(mosaic, offset=-0.1)[..., index].astype(np.uint16)
        layer[:5] = 0  # no data
        write(images / f"T32_2022{'_' + band}{suffix}.tif", layer)
        (images / f"._T32_2022{'_' + band}{suffix}.tif").write_bytes(b"macOS")
    prefix, kind = ("BOA_", "BOA") if level == "L2A" else ("", "RADIO")
    offsets = "".join(
        f'<{kind}_ADD_OFFSET band_id="{i}">-1000</{kind}_ADD_OFFSET>' for i in range(4)
    )
    prefix = f"L2A_{prefix}" if old else prefix
    quantification = f"<{prefix}QUANTIFICATION_VALUE>10000</{prefix}QUANTIFICATION_VALUE>"
    text = f'<n1:P xmlns:n1="https://psd">{quantification}<List>{offsets}</List></n1:P>'
    (folder / f"MTD_MSI{level}.xml").write_text(text)
    scene = opening.open_scene(folder)
    assert scene.level == level
    by_metadata = opening.open_scene(folder / f"MTD_MSI{level}.xml")  # as SNAP and QGIS open it
    assert by_metadata.identity() == scene.identity()
    gray, valid = scene.read()
    assert not valid[:5].any()
    np.testing.assert_array_equal(gray[5:], np.maximum(mosaic, 1)[5:])
    (images / f"T32_2022_B03{suffix}.tif").unlink()
    with pytest.raises(ValueError, match=r"one file each of B04, B03, B02"):
        opening.open_scene(folder)


def test_product_as_downloaded_is_to_be_unzipped(tmp_path):
    name = "S2A_MSIL1C_20220601T101031_N0400_R022_T32TQS_20220601T123456.SAFE"
    text = (
        '<n1:Level-1C_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/'
        'User_Product_Level-1C.xsd"><n1:General_Info><Product_Info>'
        "<Query_Options><Band_List><BAND_NAME>B4</BAND_NAME></Band_List></Query_Options>"
        "<Product_Organisation><Granule_List><Granule><IMAGE_FILE>GRANULE/G/IMG_DATA/T_B04"
        "</IMAGE_FILE></Granule></Granule_List></Product_Organisation></Product_Info>"
        "</n1:General_Info></n1:Level-1C_User_Product>"
    )
    with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as packed:
        packed.writestr(f"{name}/MTD_MSIL1C.xml", text)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as packed:  # GDAL knows it by its name
        packed.writestr(f"{name}/MTD_MSIL1C.xml", text)
    (tmp_path / "MTD_MSIL1C.xml").write_text(text)  # not beside GRANULE
    empty = r"It holds no bands, only other files\."
    for file, why in ((f"{name}.zip", empty), ("other.zip", ""), ("MTD_MSIL1C.xml", empty)):
        advice = rf"{file}\. Unzip a product, and pass its \.SAFE folder\. {why}"
        with pytest.raises(ValueError, match=advice):
            opening.open_scene(tmp_path / file)


def test_level_is_taken_from_arguments_then_tags_then_names(mosaic, tmp_path):
    files = [
        write(tmp_path / f"T32TQM_20240704T101559_{band}_10m.tif", mosaic[..., :1])
        for band in ("B04", "B03", "B02")
    ]
    assert opening.open_scene(files).level == "L2A"
    assert opening.open_scene(files, level="L1C").level == "L1C"
    named = write(tmp_path / "scene_L1C.tif", mosaic)
    assert opening.open_scene(named).level == "L1C"
    for tags, level in (
        ({"PROCESSING_LEVEL": "Level-2A"}, "L2A"),
        ({"level": "l2a"}, "L2A"),
        ({"level": "surface"}, "L1C"),  # not a level: the name says it
    ):
        with rasterio.open(named, "r+") as file:
            file.update_tags(**tags)
        assert opening.open_scene(named).level == level
        assert opening.open_scene(named, level="L1C").level == "L1C"


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("S2A_MSIL2A_20210601_scene", "L2A"),
        ("my_l2a", "L2A"),
        ("sentinel-2-l1c_0", "L1C"),
        ("sentinel2a_20210601", None),
        ("Sentinel2A_L1C", "L1C"),
        ("vol1c", None),
        ("parcel2a", None),
        ("my_B04_10m", None),
    ],
)
def test_level_is_read_from_a_name_only_where_it_stands_there(mosaic, tmp_path, name, level):
    assert opening.open_scene(write(tmp_path / f"{name}.tif", mosaic)).level == level


def test_haze_is_added_where_there_is_none(classifier, mosaic, tmp_path):
    hazy = np.maximum(mosaic, 60)
    haze = np.array(pixels.HAZE) * 0.275 / 254 / 1e-4
    clear = np.rint((numbers(hazy) - haze) / pixels.LET_THROUGH)
    source = write(tmp_path / "clear.tif", clear.astype(np.int16), tags=(1e-4, 0.0))
    scene = opening.open_scene(source, level="L2A")
    gray, _ = scene.as_level_1c(np.empty((0, 3))).read()
    assert np.abs(gray.astype(int) - hazy).max() <= 1  # rounded once more
    expected, output = classifier.serve(gray[None, :64, :64]), tmp_path / "map.tif"
    with pytest.warns(UserWarning, match=r"Its darkest blue is that of level 2A.*pass `level`"):
        guessed = scenes.classify(source, classifier, output, stride=64)
    with rasterio.open(output) as file:
        assert (file.tags()["level"], file.tags()["level_from"]) == ("L2A", "its darkest blue")
    told = scenes.classify(source, classifier, output, stride=64, level="L2A")
    unlike = expected["unfamiliarity"] / classifier.metadata["unfamiliarity_threshold"]["threshold"]
    for one in (guessed, told):
        assert one.unfamiliarity[0, 0] == pytest.approx(unlike[0], rel=1e-4)
        np.testing.assert_array_equal(one.picture, scene.read()[0])  # as it is
    with pytest.warns(UserWarning, match="are red and blue swapped, or is it of level 2A"):
        as_it_is = scenes.classify(source, classifier, output, stride=64, level="L1C")
    assert abs(as_it_is.unfamiliarity[0, 0] / unlike[0] - 1) > 0.01


def test_scene_with_haze_stays_as_it_is(mosaic, tmp_path):
    file = write(tmp_path / "scene.tif", np.maximum(mosaic, 60), tags=(0.275 / 254, 0.0))
    scene = opening.open_scene(file)
    overview = scene.read()[0].reshape(-1, 3)
    assert scene.as_level_1c(overview).level == "L1C"
    assert scene.as_level_1c(overview).offset == scene.offset


def test_three_band_files_and_described_bands_are_the_same_scene(mosaic, tmp_path):
    bands = ("B04", "B03", "B02")
    files = [write(tmp_path / f"{b}.tif", mosaic[..., i]) for i, b in enumerate(bands)]
    four = np.dstack([mosaic[..., ::-1], mosaic[..., :1]])
    stack = write(tmp_path / "four.tif", four, descriptions=["B02", "B03", "B04", "B08"])
    short = write(tmp_path / "three.tif", mosaic[..., ::-1], descriptions=["B2", "B3", "B4"])
    expected = np.maximum(mosaic, 1)
    masked = write(tmp_path / "masked.tif", four, descriptions=["B2", "B3", "B4_10m", "B4_mask"])
    sources = [
        (masked, {}),
        (files, {}),
        (stack, {}),
        (stack, {"bands": np.array([3, 2, 1])}),
        (short, {}),
    ]
    for number, words in enumerate(
        (
            ["blue", "Green", "red"],
            ["blue B02", "green B03", "red B04"],
            ["B2_median", "B3_median", "B4_median"],
            ["B02_reflectance", "B03_reflectance", "B04_reflectance"],
            ["Blue band", "Green Band", "red band"],
        )
    ):
        named = write(tmp_path / f"named{number}.tif", mosaic[..., ::-1], descriptions=words)
        sources.append((named, {}))
    for source, options in sources:
        gray, _ = opening.open_scene(source, **options, **GREY).read()
        np.testing.assert_array_equal(gray, expected)
    with pytest.raises(ValueError, match=r"must be B04, B03, B02\. Received: .*B02.tif for B04"):
        opening.open_scene(files[::-1], **GREY)
    with pytest.raises(ValueError, match=r"of one grid and of one band each, .*, bands: 3; "):
        opening.open_scene([write(tmp_path / "rgb.tif", mosaic)] * 3, **GREY)
    files[2] = write(tmp_path / "other.tif", mosaic[..., 2], transform=Affine(10, 0, 7, 0, -10, 9))
    with pytest.raises(ValueError, match=r"one grid .*; .*other.tif, 192 x 256 .* from \(7.0, 9"):
        opening.open_scene(files, **GREY)


@pytest.mark.parametrize(
    ("names", "described"),
    [
        (("blue", "green", "red"), None),
        (("S2_blue", "S2_green", "S2_red"), None),
        (("b02", "b03", "b04"), None),
        (("first", "second", "third"), ("B02", "B03", "B04")),
        (("b1", "b2", "b3"), ("Blue", "Green", "Red")),
    ],
)
def test_three_files_in_another_order_are_refused(mosaic, tmp_path, names, described):
    said = described or [None] * 3
    files = [
        write(tmp_path / f"{name}.tif", mosaic[..., 2 - i], descriptions=said[i] and [said[i]])
        for i, name in enumerate(names)
    ]
    with pytest.raises(ValueError, match=r"must be B04, B03, B02\. .* for B04; it says B02"):
        opening.open_scene(files, **GREY)
    gray, _ = opening.open_scene(files[::-1], **GREY).read()
    np.testing.assert_array_equal(gray, np.maximum(mosaic, 1))


def test_names_that_count_files_say_no_band(mosaic, tmp_path):
    names = "b1", "b2", "b3"
    files = [write(tmp_path / f"{name}.tif", mosaic[..., i]) for i, name in enumerate(names)]
    gray, _ = opening.open_scene(files, **GREY).read()
    np.testing.assert_array_equal(gray, np.maximum(mosaic, 1))


def test_home_and_packed_files_are_found_alone_and_in_a_list(mosaic, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    source = write(tmp_path / "scene.tif", mosaic)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        packed.write(source, "scene.tif")
    for name in ("~/scene.tif", f"/vsizip/{tmp_path}/packed.zip/scene.tif"):
        for given in (name, [name]):
            assert opening.open_scene(given, **GREY).files[0].shape == (192, 256)


@pytest.mark.parametrize(
    "described",
    [
        ["B08", "B04", "B03"],
        ["B04", "B03", None],
        ["B04", "B04", "B03"],
        ["B04_20m", "B03_20m", "B02_60m"],
        ["B04_median", "B04_mask", "B03_median"],
        ["Band 2", "Band 3", "Band 4"],  # of Sentinel-2, or of Landsat
        ["near infrared", "red", "green"],
    ],
)
def test_bands_of_other_colors_are_refused(mosaic, tmp_path, described):
    source = write(tmp_path / "scene.tif", mosaic, descriptions=[d or "" for d in described])
    with pytest.raises(ValueError, match=r"`bands` must be .*described as \['"):
        opening.open_scene(source, **GREY)


@pytest.mark.parametrize("described", [None, ["Layer_1", "Layer_2", "Layer_3"]])
def test_colors_of_a_file_without_names_give_the_order_of_its_bands(mosaic, tmp_path, described):
    source = write(tmp_path / "scene.tif", mosaic.astype(np.uint16), descriptions=described)
    assert opening.open_scene(source, **GREY).bands == (1, 2, 3)
    for order in ("blue green red", "green blue red"):
        with rasterio.open(source, "r+") as file:
            file.colorinterp = [ColorInterp[color] for color in order.split()]
        expected = tuple(1 + order.split().index(color) for color in ("red", "green", "blue"))
        assert opening.open_scene(source, **GREY).bands == expected


def test_numbers_may_be_those_of_numpy(classifier, mosaic, tmp_path):
    source = write(tmp_path / "scene.tif", mosaic)
    known = {name: np.float64(GREY[name]) for name in ("scale", "offset")}
    found = scenes.classify(
        source, classifier, tmp_path / "map.tif", stride=np.int32(64), level="L1C", **known
    )
    again = scenes.classify(source, classifier, tmp_path / "again.tif", stride=64, **GREY)
    np.testing.assert_array_equal(found.classes, again.classes)
    assert type(opening.open_scene(source, scale=np.float32(0.001)).scale[0]) is float


@pytest.mark.parametrize("kind", ["value", "zero", "mask", "NaN"])
def test_windows_without_data_stay_without(classifier, mosaic, tmp_path, kind):
    pixels = mosaic.astype(np.float32) if kind == "NaN" else mosaic.copy()
    holes = np.zeros(pixels.shape[:2], bool)
    holes[:, :100] = True  # the first column of windows, and more than half of the second
    options = {}
    if kind == "mask":
        options["mask"] = ~holes
    else:
        pixels[holes] = {"NaN": np.nan, "value": 7, "zero": 0}[kind]
        options |= {"nodata": 7} if kind == "value" else {}
        pixels[~holes] = np.maximum(pixels[~holes], 8)
    source = write(tmp_path / "scene.tif", pixels, **options)
    found = scenes.classify(source, classifier, tmp_path / "map.tif", stride=64, **GREY)
    np.testing.assert_array_equal(found.classes == 255, [[True, True, False, False]] * 3)
    assert np.isnan(found.confidence[:, :2]).all()
    with rasterio.open(found.file) as file:
        assert (file.read()[:, :, :2] == 255).all()
    figure = plots.scene_map(
        found.picture, found.classes, found.confidence, found.unfamiliarity > 1, found.class_names
    )
    assert len(figure.axes) == 4


@pytest.mark.parametrize("stride", [20, 32, 40, 64])
def test_windows_with_gaps_count_little_and_cells_with_few_data_not_at_all(
    classifier, mosaic, tmp_path, monkeypatch, stride
):
    monkeypatch.setattr(sweeping, "BLOCK", 14)  # many strips
    y, x = np.mgrid[:190, :250]
    gap = ((y - 60) ** 2 + (x - 90) ** 2 < 37**2) | (x + y > 350) | (x < 17)
    pixels = np.where(gap[..., None], 0, np.maximum(mosaic[:190, :250], 1)).astype(np.uint8)
    source = write(tmp_path / "scene.tif", pixels, nodata=0)
    found = scenes.classify(source, classifier, tmp_path / "map.tif", stride=stride, **GREY)
    tops, lefts = ([*range(0, side - 64, stride), side - 64] for side in gap.shape)
    places = [(top, left) for top in tops for left in lefts]
    windows = [np.s_[top : top + 64, left : left + 64] for top, left in places]
    answers = classifier.predict(np.stack([pixels[window] for window in windows]))
    shares = np.array([1 - gap[window].mean() for window in windows])
    known = 0
    for (row, column), confidence in np.ndenumerate(found.confidence):
        y, x = row * stride, column * stride
        y_end, x_end = min(y + stride, 190), min(x + stride, 250)
        weights = [
            share**16 * (share >= 0.5 and t <= y and y_end <= t + 64 and u <= x and x_end <= u + 64)
            for share, (t, u) in zip(shares, places, strict=True)
        ]
        has_data = gap[y:y_end, x:x_end].mean() <= 0.5 and any(weights)
        assert (found.classes[row, column] < 255) == has_data
        known += has_data
        if has_data:
            expected = np.average(answers, axis=0, weights=weights).max()
            assert confidence == pytest.approx(expected, abs=1e-4)
    assert 0 < known < found.classes.size


def test_a_single_number_of_no_data_is_dark_ground_in_integers_alone(mosaic, tmp_path):
    pixels = np.maximum(mosaic, 8)
    pixels[:9, :, 0] = 0  # red of dark water
    pixels[9:12] = 0
    for nodata in (0, None):
        file = write(tmp_path / "scene.tif", pixels, nodata=nodata)
        gray, valid = opening.open_scene(file, **GREY).read()
        np.testing.assert_array_equal(valid[:, 0], (np.arange(192) < 9) | (np.arange(192) >= 12))
        np.testing.assert_array_equal(gray, np.where(valid[..., None], np.maximum(pixels, 1), 0))
    pixels = pixels.astype("float32")
    file = write(tmp_path / "scene.tif", pixels, nodata=0)
    assert not opening.open_scene(file, **GREY).read()[1][:12].any()


def test_gaps_far_below_0_are_no_ground_in_integers_either(mosaic, tmp_path):
    pixels = numbers(mosaic).astype("int16")
    pixels[:5], pixels[5, :, 0], pixels[6] = -9999, -9999, -300  # the last: dark ground
    scene = opening.open_scene(write(tmp_path / "scene.tif", pixels), level="L1C")
    np.testing.assert_array_equal(scene.read()[1][:, 0], np.arange(192) > 5)
    declared = write(tmp_path / "scene.tif", pixels, nodata=7)
    assert opening.open_scene(declared, level="L1C").read()[1].all()


@pytest.mark.parametrize("kind", ["float32", "int16"])
def test_gaps_from_which_an_offset_was_subtracted_are_no_ground(mosaic, tmp_path, kind):
    scale = 1.0 if kind == "float32" else 1e-4
    pixels = ((np.maximum(mosaic, 60) - 1) * 0.275 / 254 / scale).astype(kind)
    pixels[:5], pixels[5], pixels[6, :, 0] = -0.1 / scale, -0.05 / scale, -0.1 / scale
    file = write(tmp_path / "scene.tif", pixels)
    for level in ("L1C", "L2A"):
        scene = opening.open_scene(file, scale=scale, level=level).as_level_1c(np.empty((0, 3)))
        np.testing.assert_array_equal(scene.read()[1].all(axis=1), np.arange(192) > 4)


def test_gaps_that_lossy_compression_blurred_are_no_ground(mosaic, tmp_path):
    pixels = numbers(np.maximum(mosaic, 60), offset=-0.1).astype("uint16")
    pixels[:5], pixels[5], pixels[6] = [0, 3, 5], [0, 3, 6], 0
    gray = np.maximum(mosaic, 1)
    gray[:5] = [0, 1, 0]  # as they are, these are dark
    for tags in ((1e-4, -0.1), (1e-4, 0.0)):
        scene = opening.open_scene(write(tmp_path / "scene.tif", pixels, tags=tags))
        expected = [row not in (0, 1, 2, 3, 4, 6) for row in range(192)]
        np.testing.assert_array_equal(scene.read()[1].all(axis=1), expected)
    assert opening.open_scene(write(tmp_path / "gray.tif", gray), **GREY).read()[1].all()


@pytest.mark.parametrize("gap", [0.0, -9999.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_gaps_of_floats_are_no_ground_though_nothing_says_so(mosaic, tmp_path, gap, scale):
    if gap == -1 and scale != 1:
        gap = -1 / scale
    hazy = ((np.maximum(mosaic, 60) - 1) * 0.275 / 254 / scale).astype("float32")
    hazy[:, 9, 0], hazy[:, 10] = 0, -0.05 / scale  # dark ground in level 2A
    pixels = hazy.copy()
    pixels[:5] = gap
    pixels[5] = [0.1 / scale, gap or 0.1 / scale, 0.1 / scale]
    file = write(tmp_path / "scene.tif", pixels)
    for level in ("L1C", "L2A"):
        scene = opening.open_scene(file, scale=scale, level=level).as_level_1c(np.empty((0, 3)))
        gray, valid = scene.read()
        assert not valid[:5].any()
        assert valid[5].all() == (gap == 0)
        assert valid[6:].all()
        assert (gray[~valid] == 0).all()
    silent = opening.open_scene(file, scale=scale)
    seen, there = silent.read()
    assert silent.as_level_1c(seen[there][:500]).level == "L1C"


def test_floats_that_say_what_is_no_data_are_believed(mosaic, tmp_path):
    pixels = mosaic.astype("float32")
    pixels[:5] = 0
    pixels[5] = 7
    for nodata in (7, np.nan):
        file = write(tmp_path / "scene.tif", pixels, nodata=nodata)
        valid = opening.open_scene(file, **GREY).read()[1]
        assert valid[:5].all()
        assert valid[5].any() == (nodata != 7)


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({}, {"level": "L1C"}, "Nothing says what the numbers"),
        ({"crs": None, "transform": Affine.identity()}, GREY, "no georeference"),
        ({"transform": Affine(60, 0, 0, 0, -60, 0)}, GREY, "60 x 60 m on the ground"),
        (
            {"crs": "EPSG:4326", "transform": Affine(1e-3, 0, 8, 0, -1e-3, 60)},
            GREY,
            "56 x 111 m on the ground",
        ),
        (
            {"crs": "EPSG:3857", "transform": Affine(10, 0, 9e5, 0, -10, 8_399_738)},  # 60° north
            GREY,
            r"5\.01 x 5 m on the ground",
        ),
        ({"crs": 'LOCAL_CS["mine"]'}, GREY, "no georeference"),
        ({}, {**GREY, "offset": 0.1}, "Is an offset of 1000 left in"),
        ({}, {**GREY, "scale": 3 * GREY["scale"], "offset": -0.35}, "reflect nothing"),
        ({}, {**GREY, "offset": -1000}, "reflect nothing: are the scale of .* offset of -1"),
        (
            {},
            {**GREY, "scale": 10 * GREY["scale"]},
            r"are white, .* scale of 0\.01083 is too large",
        ),
        ({}, {**GREY, "scale": GREY["scale"] / 10, "level": "L2A"}, "Even the brightest pixels"),
    ],
)
def test_doubts_are_said(classifier, mosaic, tmp_path, options, arguments, message):
    source = write(tmp_path / "scene.tif", mosaic, **options)
    with pytest.warns(UserWarning, match=message):
        scenes.classify(source, classifier, tmp_path / "map.tif", stride=64, **arguments)
    assert (tmp_path / "map.tif").exists()


def test_grid_in_degrees_and_a_rotated_one_are_kept(classifier, mosaic, tmp_path):
    degrees = Affine(1.6e-4, 0, 8, 0, -9e-5, 56)
    turned = Affine(8.66, 5.0, 5e5, 5.0, -8.66, 5e6)
    for crs, transform in (("EPSG:4326", degrees), ("EPSG:32632", turned)):
        source = write(tmp_path / "scene.tif", mosaic, crs=crs, transform=transform)
        found = scenes.classify(source, classifier, tmp_path / "map.tif", stride=64, **GREY)
        with rasterio.open(found.file) as file:
            a, b, c, d, e, f = transform[:6]
            expected = 64 * a, 64 * b, c, 64 * d, 64 * e, f
            np.testing.assert_allclose(file.transform[:6], expected)
        assert found.hectares[0, 0] == pytest.approx(40.96, rel=0.03)


def test_digital_numbers_as_floats_ask_for_their_scale_not_for_an_offset(mosaic, tmp_path):
    def said(pixels, **options):
        scene = opening.open_scene(write(tmp_path / "scene.tif", pixels), level="L1C", **options)
        return " ".join(doubts.find(scene, scene.read()[0].reshape(-1, 3)))

    digital = numbers(mosaic).astype("float32")
    assert "Nothing says what the numbers" in said(digital)
    assert "100% of the pixels of" in said(digital)
    assert "look like 0 to 10000: pass `scale=1e-4`" in said(digital)
    assert "an offset of 1000" not in said(digital)
    assert said(digital, scale=1e-4) == ""
    for snow, options in (
        (np.full((64, 64, 3), 3500, np.uint16), {}),
        (np.full((64, 64, 3), 0.35, np.float32), {"scale": 1.0}),
    ):
        assert "Unless it is snow, cloud or sand" in said(snow, **options)
        assert "1e-4" not in said(snow, **options).partition("are white")[2]


def test_advice_is_not_what_was_followed_already(mosaic, tmp_path):
    bright = numbers(np.maximum(mosaic, 200)).astype(np.uint16)
    file = write(tmp_path / "scene.tif", bright)

    def said(**options):
        scene = opening.open_scene(file, level="L1C", scale=1e-4, **options)
        return " ".join(doubts.find(scene, scene.read()[0].reshape(-1, 3)))

    assert "Then pass `offset=-0.1`" in said()
    assert "Unless it is bright everywhere" in said(offset=-0.1)
    assert "pass `offset" not in said(offset=-0.1)


def test_swapped_bands_are_suspected_at_level_1c(mosaic, tmp_path):
    hazy = np.maximum(mosaic, [20, 40, 60])
    for order, swapped in ((slice(None), False), (slice(None, None, -1), True)):
        file = write(tmp_path / "scene.tif", hazy[..., order])
        scene = opening.open_scene(file, **GREY)
        found = " ".join(doubts.find(scene, scene.read()[0].reshape(-1, 3)))
        assert ("are red and blue swapped" in found) == swapped


def test_true_color_image_of_level_2a_that_is_saturated_is_doubted(mosaic, tmp_path):
    for level, share, doubted in (("L2A", 0.1, True), ("L2A", 0.01, False), ("L1C", 0.1, False)):
        image = np.maximum(mosaic, 60)
        image[image == 255] = 254
        image[: round(share * len(image))] = 255
        scene = opening.open_scene(write(tmp_path / f"T32TQM_{level}_TCI.tif", image))
        found = " ".join(doubts.find(scene, scene.read()[0].reshape(-1, 3)))
        assert ("are saturated" in found) == doubted


@pytest.mark.parametrize(
    ("crs", "pixel", "place"),
    [
        ("EPSG:3857", 20, (12.2, 60)),
        ("EPSG:900913", 20, (12.2, 60)),
        ("ESRI:102113", 20, (12.2, 60)),
        ("EPSG:3395", 20, (12.2, 60)),
        ("EPSG:3857", 20, (179.999, 60)),  # the scene lies on both sides of 180 degrees
        ("EPSG:3413", 11.23, (12.2, 46.58)),  # polar, far from the pole
        ("EPSG:4807", 1.2e-4, (2, 46.58)),  # in grads, from Paris
    ],
)
def test_pixels_are_measured_on_the_ground_whatever_the_grid(mosaic, tmp_path, crs, pixel, place):
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", crs, *([degree] for degree in place))
    grid = Affine(pixel, 0, x - 128 * pixel, 0, -pixel, y + 96 * pixel)
    scene = opening.open_scene(write(tmp_path / "scene.tif", mosaic, crs=crs, transform=grid))
    expected = (10, 10)
    if crs == "EPSG:4807":
        expected = (12.0, 12.0 * math.cos(math.radians(46.58)))  # a grad is 100 km
    assert scene.pixel_metres() == pytest.approx(expected, rel=0.007)


def test_areas_in_degrees_follow_the_latitude(classifier, mosaic, tmp_path):
    """Against the area between two circles of latitude on the ellipsoid."""
    pixel = 0.005  # degrees: a scene of 0.96 degrees
    grid = Affine(pixel, 0, 12, 0, -pixel, 61)
    source = write(tmp_path / "scene.tif", mosaic, crs="EPSG:4326", transform=grid)
    with pytest.warns(UserWarning, match="m on the ground"):
        found = scenes.classify(source, classifier, tmp_path / "map.tif", stride=64, **GREY)
    axis, e = 6_378_137.0, math.sqrt(0.0066943799901413165)

    def zone(degrees):  # from the equator, per radian of longitude
        sine = math.sin(math.radians(degrees))
        term = sine / (1 - (e * sine) ** 2) + math.atanh(e * sine) / e
        return axis**2 * (1 - e**2) / 2 * term

    edges = [zone(61 - 64 * pixel * row) for row in range(4)]
    expected = -np.diff(edges) * math.radians(64 * pixel) / 1e4
    np.testing.assert_allclose(found.hectares, np.outer(expected, np.ones(4)), rtol=1e-4)


@pytest.mark.parametrize("transform", [UTM["transform"], Affine(10, 0, 5e9, 0, -10, 5e9)])
def test_a_grid_of_survey_is_measured_in_its_own_metres(mosaic, tmp_path, transform):
    scene = opening.open_scene(write(tmp_path / "scene.tif", mosaic, transform=transform))
    if transform == UTM["transform"]:
        assert scene.pixel_metres() == pytest.approx((10, 10), rel=1e-9)
    else:
        assert scene.pixel_metres() is None


@pytest.mark.parametrize(
    ("pixels", "arguments", "message"),
    [
        (np.ones((63, 300, 3), np.uint8), {}, r"at least 64 x 64 pixels.* 63 x 300"),
        (np.ones((300, 1, 3), np.uint8), {}, r"Received: 300 x 1"),
        (np.ones((64, 64, 4), np.uint8), {}, r"`bands` must be .* a file of 4 bands"),
        (
            np.ones((64, 64, 3), np.uint8),
            {"bands": [1, 2, 9]},
            r"from 1 to 3. Received: \[1, 2, 9\]",
        ),
        (np.ones((64, 64, 3), np.uint8), {"stride": 65}, r"`stride` must be .* Received: 65"),
        (np.ones((64, 64, 3), np.uint8), {"bands": 3}, r"`bands` must be .* Received: \[3\]"),
        (np.ones((64, 64, 3), np.uint8), {"level": "L2"}, "`level` must be"),
        (np.ones((64, 64, 3), np.uint8), {"scale": 0.0}, r"`scale` must be a positive number"),
    ],
)
def test_what_makes_no_sense_is_refused(classifier, tmp_path, pixels, arguments, message):
    source = write(tmp_path / "scene.tif", pixels)
    with pytest.raises(ValueError, match=message):
        scenes.classify(source, classifier, tmp_path / "map.tif", **{**GREY, **arguments})
    assert {path.name for path in tmp_path.iterdir()} <= {"scene.tif"}


def test_map_never_replaces_its_scene(classifier, mosaic, tmp_path):
    source = write(tmp_path / "scene.tif", mosaic)
    before = source.read_bytes()
    for name in (source, f"file://{source}", f"GTIFF_DIR:1:{source}"):  # all of the same file
        with pytest.raises(ValueError, match="`output` must be another file than `source`"):
            scenes.classify(name, classifier, str(tmp_path / "." / "scene.tif"), **GREY)
        assert source.read_bytes() == before
        assert opening.open_scene(name, **GREY).identity()[1][0][0] == len(before)


def test_map_never_replaces_what_a_virtual_scene_leads_to(classifier, mosaic, tmp_path):
    source = write(tmp_path / "scene.tif", mosaic)
    before, inner, outer = source.read_bytes(), tmp_path / "inner.vrt", tmp_path / "outer.vrt"
    rasterio.shutil.copy(source, inner, driver="VRT")
    rasterio.shutil.copy(inner, outer, driver="VRT")
    for name in (inner, outer):
        with pytest.raises(ValueError, match="`output` must be another file than `source`"):
            scenes.classify(name, classifier, source, **GREY)
        assert source.read_bytes() == before


def test_files_that_programs_write_beside_a_scene_they_show_change_nothing(mosaic, tmp_path):
    source = write(tmp_path / "scene.tif", mosaic)
    before = opening.open_scene(source, **GREY).identity()
    (tmp_path / "scene.tif.aux.xml").write_text("<PAMDataset></PAMDataset>")
    assert opening.open_scene(source, **GREY).identity() == before
    hazy = opening.open_scene(source, **{**GREY, "level": "L2A"}).as_level_1c(np.empty((0, 3)))
    assert hazy.identity() != before


def test_damaged_missing_and_unreadable_files_are_named(classifier, mosaic, tmp_path):
    source = write(
        tmp_path / "scene.tif", np.tile(mosaic, (4, 4, 1)), compress="deflate", tiled=True
    )
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    output = tmp_path / "map.tif"
    output.write_bytes(b"an earlier map")
    with pytest.raises(ValueError, match=r"scene.tif"):
        scenes.classify(source, classifier, output, **GREY)
    with pytest.raises(FileNotFoundError, match="`source` must exist"):
        scenes.classify(tmp_path / "nothing.tif", classifier, output)
    for content in ("no raster", ""):
        (tmp_path / "text.tif").write_text(content)
        with pytest.raises(ValueError, match="a raster that GDAL reads"):
            scenes.classify(tmp_path / "text.tif", classifier, output)
    with pytest.raises(ValueError, match=r"`output` must end in .tif"):
        scenes.classify(source, classifier, tmp_path / "map.png")
    assert output.read_bytes() == b"an earlier map"


def test_offset_that_leaves_no_data_is_named(classifier, mosaic, tmp_path):
    source = write(tmp_path / "scene.tif", numbers(mosaic).astype(np.int16))
    with pytest.warns(UserWarning, match=r"has data, .* Is the offset of -1000 right\?"):
        scenes.classify(source, classifier, tmp_path / "map.tif", scale=1e-4, offset=-1000)


def test_three_files_with_an_alpha_band_each_are_a_scene(mosaic, tmp_path):
    alpha = np.full(mosaic.shape[:2], 255, np.uint8)
    alpha[:7] = 0
    files = [
        write(tmp_path / f"B0{4 - i}.tif", np.dstack([mosaic[..., i], alpha]), alpha="yes")
        for i in range(3)
    ]
    gray, valid = opening.open_scene(files, **GREY).read()
    assert not valid[:7].any()
    np.testing.assert_array_equal(gray[7:], np.maximum(mosaic, 1)[7:])


def test_scene_without_any_data_gives_an_empty_map(classifier, tmp_path):
    source = write(tmp_path / "scene.tif", np.zeros((64, 90, 3), np.uint8), nodata=0)
    with pytest.warns(UserWarning, match=r"No pixel of `.*scene.tif` has data"):
        found = scenes.classify(source, classifier, tmp_path / "map.tif", **GREY)
    assert (found.classes == 255).all()
    assert found.areas()["cells"].sum() == 0
    assert found.confidence.dtype == np.float32
    plots.scene_map(
        found.picture, found.classes, found.confidence, found.unfamiliarity > 1, found.class_names
    )


def test_interrupted_map_resumes_and_ends_as_an_uninterrupted_one(
    classifier, mosaic, tmp_path, monkeypatch
):
    source = write(tmp_path / "scene.tif", np.tile(mosaic, (3, 1, 1)))
    whole = scenes.classify(source, classifier, tmp_path / "whole.tif", **GREY)
    monkeypatch.setattr(sweeping, "SECONDS", 0)
    monkeypatch.setattr(sweeping, "BLOCK", 14)
    served = []

    class Interrupted:
        directory, metadata = classifier.directory, classifier.metadata
        class_names = classifier.class_names

        @staticmethod
        def serve(images, **options):
            served.append(len(images))
            if len(served) == 5:
                raise KeyboardInterrupt
            return classifier.serve(images, **options)

    output = tmp_path / "map.tif"
    with pytest.raises(KeyboardInterrupt):
        scenes.classify(source, Interrupted, output, **GREY)
    assert not output.exists()
    scenes.classify(source, Interrupted, tmp_path / "other.tif", **GREY)  # not that map
    before = len(served)
    found = scenes.classify(source, Interrupted, output, **GREY)
    assert len(served) - before == (before - 5) - 4  # four of its blocks were done
    np.testing.assert_array_equal(found.classes, whole.classes)
    np.testing.assert_allclose(found.confidence, whole.confidence, atol=1e-6)
    assert not list(tmp_path.glob("*.unfinished"))


def test_scene_that_is_written_again_while_it_is_read_gives_no_map(
    classifier, mosaic, tmp_path, monkeypatch
):
    source = write(tmp_path / "scene.tif", np.tile(mosaic, (3, 1, 1)))
    monkeypatch.setattr(sweeping, "SECONDS", 0)  # a state is kept after each block
    monkeypatch.setattr(sweeping, "BLOCK", 14)
    changes = [
        lambda: write(source, np.tile(mosaic, (3, 1, 1))[::-1]),
        lambda: write(tmp_path / "new.tif", np.tile(mosaic, (3, 1, 1))).replace(source),
        source.unlink,
    ]

    class Rewritten:
        directory, metadata = classifier.directory, classifier.metadata
        class_names = classifier.class_names
        served = 0

        def serve(self, images, **options):
            self.served += 1
            if self.served == 3:
                changes.pop()()
            return classifier.serve(images, **options)

    output = tmp_path / "map.tif"
    while changes:
        write(source, np.tile(mosaic, (3, 1, 1)))
        with pytest.raises(ValueError, match=r"scene\.tif` changed while it was read: repeat"):
            scenes.classify(source, Rewritten(), output, **GREY)
        assert not [path for path in tmp_path.iterdir() if path.name not in ("scene.tif", ".lock")]
    alone = scenes.classify(source, classifier, tmp_path / "alone.tif", **GREY)
    found = scenes.classify(source, classifier, output, **GREY)
    np.testing.assert_array_equal(found.classes, alone.classes)


def test_web_map_of_a_scene_on_both_sides_of_180_degrees(classifier, mosaic, tmp_path):
    grid = {"crs": "EPSG:32760", "transform": Affine(10, 0, 818000, 0, -10, 8_129_000)}
    source = write(tmp_path / "scene.tif", mosaic, **grid)
    found = scenes.classify(source, classifier, tmp_path / "map.tif", stride=64, **GREY)
    page = scenes.web_map(found, tmp_path / "map.html").read_text()
    bounds = re.search(r"\[\[(\S+), (\S+)\], \[(\S+), (\S+)\]\]", page).groups()
    south, west, north, east = map(float, bounds)
    assert 179.9 < west < 180 < east < 180.1
    assert -17 < south < north < -16.8


def test_web_map_lies_on_its_place_and_holds_a_picture_for_when_there_is_no_network(
    classifier, mosaic, tmp_path
):
    source = write(tmp_path / "scene.tif", mosaic)
    found = scenes.classify(source, classifier, tmp_path / "map.tif", stride=64, **GREY)
    page = scenes.web_map(found, tmp_path / "map.html", title="A mosaic").read_text()
    bounds = re.search(r"\[\[(\S+), (\S+)\], \[(\S+), (\S+)\]\]", page).groups()
    with rasterio.open(found.file) as file:
        box = rasterio.warp.transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    west, south, east, north = box
    np.testing.assert_allclose(np.float64(bounds), [south, west, north, east], atol=3e-6)
    assert "data:image/png;base64" in page
    for number, name in enumerate(found.class_names):
        assert (f"</span> {name}</div>" in page) == (found.classes == number).any()
    source = write(tmp_path / "scene.tif", mosaic, crs=None, transform=Affine.identity())
    with pytest.warns(UserWarning, match="no georeference"):
        found = scenes.classify(source, classifier, tmp_path / "map.tif", stride=64, **GREY)
    with pytest.raises(ValueError, match="`land_cover` must have a georeference"):
        scenes.web_map(found, tmp_path / "other.html")
    before = found.file.read_bytes()
    with pytest.raises(ValueError, match=r"`file` must end in .html. Received: .*map.tif"):
        scenes.web_map(found, found.file)
    assert found.file.read_bytes() == before


# Cells of the map of Aberystwyth at stride 32, chosen on the picture: in each of the first rows, so
# many hold water alone; and blocks of rows and columns in the town.
SEA = (5, 5, 4, 4, 4, 4, 4, 4, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 1)
TOWN = (np.s_[11:14, 3:6], np.s_[16:18, 6:9], np.s_[11:13, 9:11])  # center, Penparcau, Waunfawr
ESTATE = np.s_[16:18, 12:14]  # of industry


@pytest.mark.skipif(SCENES is None, reason="needs EUROSAT_SCENES, a folder with two real scenes")
def test_coast_of_wales(classifier, tmp_path):
    source = Path(SCENES) / "aberystwyth_sr.tif"
    found = scenes.classify(source, classifier, tmp_path / "map.tif", level="L2A")
    names = np.array(classifier.class_names)[found.classes]
    assert (names == "Pasture").mean() > 0.75  # the countryside
    assert (found.unfamiliarity > 1).mean() < 0.03
    assert found.areas()["hectares"].sum() == pytest.approx(930 * 947 / 100)
    sea = np.concatenate([row[:count] for row, count in zip(names, SEA, strict=False)])
    assert len(sea) == 59
    assert (sea == "SeaLake").mean() > 0.95
    town = np.concatenate([names[block].ravel() for block in TOWN])
    assert Counter(town.tolist()).most_common(1)[0][0] == "Residential"
    assert (names[TOWN[2]] == "Residential").mean() >= 0.75
    assert (names[ESTATE] == "Industrial").mean() >= 0.5


@pytest.mark.skipif(SCENES is None, reason="needs EUROSAT_SCENES, a folder with two real scenes")
def test_dolomites(classifier, tmp_path):
    source = Path(SCENES) / "dolomites_l1c.tif"
    found = scenes.classify(source, classifier, tmp_path / "map.tif")
    names = np.array(classifier.class_names)[found.classes]
    assert (names[-4:, -6:] == "Forest").mean() > 0.8  # in the south-east
    assert (names[27:, :3] == "Residential").mean() > 0.7  # Cortina
    gray, _ = opening.open_scene(source).read()
    whole = gray[: 29 * 32, : 33 * 32].reshape(29, 32, 33, 32, 3).mean(axis=(1, 3, 4))
    unfamiliar = found.unfamiliarity[:29, :33] > 1
    assert unfamiliar[whole > 190].mean() > 0.75  # rock and cloud
    assert unfamiliar[whole < 110].mean() < 0.1
    with pytest.warns(UserWarning, match="Is an offset of 1000 left in"):
        scenes.classify(source, classifier, tmp_path / "map.tif", offset=0.0)


def test_figure_has_a_scale_hatches_what_is_unfamiliar_and_ends_with_the_scene():
    classes, picture = np.zeros((2, 3), np.uint8), np.full((40, 50, 3), 90, np.uint8)
    unfamiliar = np.array([[False, True, False], [False, False, True]])
    options = {"size": (1.6, 2.5), "cell_metres": 640}
    figure = plots.scene_map(picture, classes, np.ones((2, 3)), unfamiliar, ["Wood"], **options)
    scene, cells, confidence, _ = figure.axes
    assert scene.images[0].get_extent() == [0, 2.5, 1.6, 0]
    assert cells.images[0].get_extent() == confidence.images[0].get_extent() == [0, 3, 2, 0]
    assert {(chart.get_xlim(), chart.get_ylim()) for chart in (scene, cells, confidence)} == {
        ((0, 2.5), (1.6, 0))
    }
    (bar,) = scene.lines
    assert [text.get_text() for text in scene.texts] == ["500 m"]
    assert np.ptp(bar.get_xdata()) == pytest.approx(500 / 640)
    (hatched,) = cells.collections
    assert hatched.get_hatch()
    assert [path.get_extents().p0.tolist() for path in hatched.get_paths()] == [[1, 0], [2, 1]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["Wood", "unfamiliar"]


def test_more_than_ten_classes_have_a_color_each():
    names = [f"class {number}" for number in range(12)]
    classes = np.arange(12).reshape(3, 4)
    picture, ones = np.zeros((30, 40, 3), np.uint8), np.ones((3, 4))
    figure = plots.scene_map(picture, classes, ones, ones < 0, names)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names
    assert len({patch.get_facecolor() for patch in legend.get_patches()}) == 12
