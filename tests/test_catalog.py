"""Finding a scene in a STAC service: a server on this machine that answers as such services do."""

from __future__ import annotations

import http.server
import json
import sys
import threading

import numpy as np
import pytest
import rasterio
import rasterio.warp
from affine import Affine

from eurosat_helpers import scenes
from eurosat_helpers.scenes import catalog, opening

pytest.importorskip("pystac_client", reason="needs pystac-client")

UTM = {"crs": "EPSG:32630", "transform": Affine(10, 0, 4e5, 0, -10, 5.81e6)}
SIDE = 512  # pixels of a scene
CONFORMS = ["core", "item-search", "collections"]


class Service(http.server.BaseHTTPRequestHandler):
    """A STAC API, and the files that its items name, by ranges of bytes."""

    def log_message(self, *_):
        pass

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        if self.path == "/":
            links = [{"rel": rel, "href": server.address} for rel in ("self", "root")]
            links.append({"rel": "search", "href": f"{server.address}/search", "method": "POST"})
            links[-1]["type"] = "application/geo+json"
            about = {"type": "Catalog", "id": "local", "stac_version": "1.0.0", "links": links}
            about |= {"description": "local", "title": "local"}
            about["conformsTo"] = [f"https://api.stacspec.org/v1.0.0/{one}" for one in CONFORMS]
            self.answer(200, json.dumps(about).encode(), Content_Type="application/json")
        elif server.fails:
            self.answer(503, b"")
        elif self.path in server.files:
            content, asked = server.files[self.path], self.headers.get("Range")
            headers = {"Accept_Ranges": "bytes", "Content_Type": "image/tiff"}
            if asked is None:
                server.sent += len(content) * (self.command == "GET")
                self.answer(200, content, **headers)
                return
            first, last = asked.removeprefix("bytes=").split("-")
            part = content[int(first) : int(last) + 1]
            server.sent += len(part)
            end = int(first) + len(part) - 1
            headers["Content_Range"] = f"bytes {first}-{end}/{len(content)}"
            self.answer(206, part, **headers)
        else:
            self.answer(404, b"")

    def do_POST(self):
        self.server.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = {"type": "FeatureCollection", "features": self.server.items, "links": []}
        status, found = self.server.status, json.dumps(found).encode()
        self.answer(status, found, Content_Type="application/geo+json")


def cog(folder, pixels):
    file = folder / "band.tif"
    options = {"driver": "COG", "dtype": "uint16", "count": 1, "blocksize": 128, "nodata": 0}
    options |= {"height": SIDE, "width": SIDE, "compress": "none", "overviews": "NONE"}
    with rasterio.open(file, "w", **UTM, **options) as band:
        band.write(pixels, 1)
    return file.read_bytes()


@pytest.fixture
def service(tmp_path, monkeypatch):
    """A service with three items; the last but one is the least cloudy that contains the box."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.address = f"http://127.0.0.1:{server.server_port}"
    rng = np.random.default_rng(0)
    server.pixels = rng.integers(1100, 3500, (3, SIDE, SIDE), dtype=np.uint16)
    server.files = {
        f"/{color}.tif": cog(tmp_path, layer)
        for color, layer in zip(("red", "green", "blue"), server.pixels, strict=True)
    }
    server.sent, server.items, server.status, server.fails = 0, [], 200, False
    bounds = rasterio.transform.array_bounds(SIDE, SIDE, UTM["transform"])
    west, south, east, north = rasterio.warp.transform_bounds(UTM["crs"], "EPSG:4326", *bounds)
    for name, cloud, far in (("cloudy", 60.0, 0), ("clear", 3.5, 0), ("elsewhere", 0.0, 0.05)):
        box = [west + far, south, east + far, north]
        ring = [[box[i], box[j]] for i, j in ((0, 1), (2, 1), (2, 3), (0, 3), (0, 1))]
        bands = [{"scale": 0.0001, "offset": -0.1, "nodata": 0}]
        assets = {
            color: {"href": f"{server.address}/{color}.tif", "raster:bands": bands}
            for color in ("red", "green", "blue")
        }
        server.items.append(
            {
                "type": "Feature",
                "stac_version": "1.0.0",
                "id": name,
                "bbox": box,
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"datetime": "2024-06-03T11:00:00Z", "eo:cloud_cover": cloud},
                "assets": assets,
                "links": [],
            }
        )
    server.box = [west + 0.01, south + 0.01, west + 0.035, south + 0.025]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))  # polls
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(local, file, **options):
    options = {"service": local.address, **options}
    return scenes.fetch(options.pop("box", local.box), "2024-06-01/2024-06-30", file, **options)


def test_least_cloudy_scene_that_contains_the_box_is_read_where_the_box_is(service, tmp_path):
    service.items[0]["properties"]["eo:cloud_cover"] = None  # unknown is not clear
    found = fetch(service, str(tmp_path / "scene.tif"))
    assert found[["scene", "date", "cloud cover"]].tolist() == ["clear", "2024-06-03", 3.5]
    assert service.asked["bbox"] == service.box
    assert service.asked["datetime"] == "2024-06-01T00:00:00Z/2024-06-30T23:59:59Z"
    assert service.asked["collections"] == ["sentinel-2-c1-l2a"]
    with rasterio.open(tmp_path / "scene.tif") as file:
        column, row = ~UTM["transform"] * (file.transform.c, file.transform.f)
        rows, columns = (
            slice(int(row), int(row) + file.height),
            slice(int(column), int(column) + file.width),
        )
        np.testing.assert_array_equal(file.read(), service.pixels[:, rows, columns])
        box = rasterio.warp.transform_bounds("EPSG:4326", file.crs, *service.box)
        beyond = np.array([1, 1, -1, -1]) * (box - np.array(file.bounds))
        assert (beyond >= 0).all()
        assert (beyond < 10).all()  # metres: less than a pixel
    # Three headers and the blocks that the box touches, not the files.
    assert service.sent < 0.8 * sum(map(len, service.files.values()))


def test_offset_that_the_item_states_is_applied(service, tmp_path):
    fetch(service, tmp_path / "scene.tif")
    scene = opening.open_scene(tmp_path / "scene.tif")
    assert (scene.said_by, scene.scale, scene.offset) == ("tags", (1e-4,) * 3, (-0.1,) * 3)
    assert scene.level == "L2A"


def test_level_is_that_of_the_collection(service, tmp_path):
    for collection, level in (("sentinel-2-l1c", "L1C"), ("sentinel-2-c1-l2a", "L2A")):
        assert fetch(service, tmp_path / "scene.tif", collection=collection).level == level
        assert opening.open_scene(tmp_path / "scene.tif").level == level


@pytest.mark.parametrize(
    ("about", "offset"),
    [
        ({"earthsearch:boa_offset_applied": True}, 0.0),
        ({"earthsearch:boa_offset_applied": False}, -0.1),
    ],
)
def test_offset_that_is_applied_already_is_not_applied_again(service, tmp_path, about, offset):
    service.items[1]["properties"] |= about
    assert fetch(service, tmp_path / "scene.tif").offset == offset


@pytest.mark.parametrize("bands", [{}, {"bands": [{"name": "B04"}]}])
def test_words_of_newer_items_are_known(service, tmp_path, bands):
    for asset in service.items[1]["assets"].values():
        del asset["raster:bands"]
        asset |= {"raster:scale": 0.0002, "raster:offset": -0.2, **bands}
    found = fetch(service, tmp_path / "scene.tif")
    assert (found["scale"], found["offset"]) == (0.0002, -0.2)


def test_scene_whose_pixels_with_data_do_not_cover_the_box_is_not_taken(service, tmp_path):
    west, south, east, north = service.items[1]["bbox"]
    part = [[east, south], [east, north], [west, north], [east, south]]  # east of the diagonal
    clear = service.items[1]["geometry"]
    clear["coordinates"] = [part]
    assert fetch(service, tmp_path / "scene.tif").scene == "cloudy"
    whole = service.items[0]["geometry"]["coordinates"]
    service.items[1]["geometry"] = {"type": "MultiPolygon", "coordinates": [[part], whole]}
    assert fetch(service, tmp_path / "scene.tif").scene == "clear"


def test_scene_is_read_from_its_address(service):
    addresses = [f"{service.address}/{color}.tif" for color in ("red", "green", "blue")]
    gray, valid = opening.open_scene(addresses, scale=1e-4, offset=-0.1).read()
    expected = 1 + (service.pixels[0] * 1e-4 - 0.1) * 254 / 0.275
    np.testing.assert_allclose(gray[..., 0], expected.clip(1, 255), atol=0.51)
    assert valid.all()
    with pytest.raises(ValueError, match=r"a raster that GDAL reads\. Received: .*nothing.tif"):
        opening.open_scene(f"{service.address}/nothing.tif")


def test_address_can_be_read_once_the_server_answers_again(service):
    addresses = [f"{service.address}/{color}.tif" for color in ("red", "green", "blue")]
    service.fails = True
    with pytest.raises(ValueError, match=r"a raster that GDAL reads"):
        opening.open_scene(addresses, scale=1e-4)
    service.fails = False
    scene = opening.open_scene(addresses, scale=1e-4)
    service.fails = True
    with pytest.raises(ConnectionError, match=r"red.tif` could not be read over .* repeat"):
        scene.read()
    service.fails = False
    assert opening.open_scene(addresses, scale=1e-4).read()[1].all()


def test_assets_of_other_names_are_refused(service, tmp_path):
    assets = service.items[1]["assets"]
    assets["B04"] = assets.pop("red")
    with pytest.raises(ValueError, match=r"must have the assets red, green, blue\. Received: "):
        fetch(service, tmp_path / "scene.tif")


def test_item_without_a_scale_is_refused_and_nothing_is_written(service, tmp_path):
    for asset in service.items[1]["assets"].values():
        del asset["raster:bands"]
    with pytest.raises(ValueError, match="`clear` must state the scale of its numbers"):
        fetch(service, tmp_path / "scene.tif")
    assert not (tmp_path / "scene.tif").exists()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([3, 50, 2, 51], "`box` must be west, south, east, north"),
        ([179.9, -17, -179.9, -16], r"split one across 180 degrees. Received: \[179.9"),
        ([4e5, 5.8e6, 4.1e5, 5.9e6], "in degrees; .* Received: "),
        ("-60, 50, -59, 51", "in degrees; .* Received: '-60"),
        ([1, 2, 3], r"in degrees; .* Received: \[1, 2, 3\]"),
        ([-60, 50, -59, 51], "3 scenes touch it, and none contains it"),
    ],
)
def test_box_that_fits_no_scene_is_named(service, tmp_path, box, message):
    with pytest.raises(ValueError, match=message):
        fetch(service, tmp_path / "scene.tif", box=box)


@pytest.mark.parametrize("dates", ["summer 2024", "2024-06-31", "2024-08-31/2024-06-01", "", None])
def test_dates_that_are_none_are_named(service, tmp_path, dates):
    with pytest.raises(ValueError, match=f"`dates` must be a first .* Received: {dates!r}"):
        scenes.fetch(service.box, dates, tmp_path / "scene.tif", service=service.address)


def test_what_the_service_refuses_is_said_with_its_words(service, tmp_path):
    service.status, service.items = 400, "no such collection"
    with pytest.raises(ValueError, match=r"refuses `box`, `dates` or `collection`: .*no such"):
        fetch(service, tmp_path / "scene.tif")


def test_the_clearest_of_some_scenes_is_not_taken_for_that_of_all(service, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "MOST", 3)
    with pytest.raises(ValueError, match=r"`dates` must be shorter: 3 scenes or more. Received: 2"):
        fetch(service, tmp_path / "scene.tif")


def test_missing_library_is_named(service, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pystac_client", None)
    with pytest.raises(ImportError, match=r"needs pystac-client: pip install pystac-client"):
        fetch(service, tmp_path / "scene.tif")


def test_no_network_is_said_with_what_to_do(service, tmp_path):
    with pytest.raises(ConnectionError, match=r"needs a network\. Without one, pass"):
        fetch(service, tmp_path / "scene.tif", service="http://127.0.0.1:9")
    service.files.clear()
    with pytest.raises(ConnectionError, match=r"needs a network\. Without one, pass"):
        fetch(service, tmp_path / "scene.tif")
    assert not (tmp_path / "scene.tif").exists()
