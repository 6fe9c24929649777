"""The inference notebook in JupyterLab and the page of a map, in a browser that nobody sees."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
import rasterio
from conftest import PROJECT, write_demo
from PIL import Image

from eurosat_helpers import artifact, scenes
from eurosat_helpers.data import CLASS_NAMES

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SILENT = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
SILENT += ["--disable-component-update", "--disable-sync"]
TOKEN = "browser-test"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]


@pytest.fixture
def lab(tmp_path):
    """Address of a JupyterLab on a copy of the project, its notebooks without outputs."""
    for name in ("eurosat_helpers", "saved_model/eurosat_cnn"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    (tmp_path / "results").mkdir()
    # A few demo tiles, and a record by which the shipped model was tested on these.
    write_demo(tmp_path / "mine", 20)
    names = [f"{label}/{label}_{number}.jpg" for label in CLASS_NAMES for number in range(1, 11)]
    model = tmp_path / "saved_model" / "eurosat_cnn"
    (model / "test_files.txt").write_text("\n".join([*names, ""]))
    metadata = json.loads((model / "metadata.json").read_text())
    metadata["scores"]["test"]["tiles"] = len(names)
    (model / "metadata.json").write_text(json.dumps(metadata))
    notebook = nbformat.read(PROJECT / "inference.ipynb", as_version=4)
    parameters = next(cell for cell in notebook.cells if cell.cell_type == "code")
    parameters.source = parameters.source.replace('data_dir = "EuroSAT"', 'data_dir = "mine"')
    assert '"mine"' in parameters.source
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, tmp_path / "inference.ipynb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={address.rpartition(':')[2]}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={tmp_path}"]
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path / ".jupyter")}
    environment.pop("MPLBACKEND", None)  # the tests' own, with which a notebook shows no figure
    with (tmp_path / "log.txt").open("w") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, (tmp_path / "log.txt").read_text()
                    time.sleep(0.5)
            else:
                pytest.fail("JupyterLab did not answer: " + (tmp_path / "log.txt").read_text())
            yield address, tmp_path
        finally:
            server.terminate()
            server.wait(30)


def test_running_all_cells_shows_the_grid_and_a_panel_that_works(lab):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    address, home = lab
    Image.new("RGB", (90, 70), (30, 90, 40)).save(home / "green.png")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=SILENT)
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        page.goto(f"{address}/lab/tree/inference.ipynb?token={TOKEN}")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        grid = page.locator(".jp-OutputArea img").first
        grid.wait_for(timeout=240_000)
        page.get_by_text("results/predictions.png").wait_for(timeout=60_000)
        grid.scroll_into_view_if_needed()
        size = grid.evaluate("image => [image.naturalWidth, image.naturalHeight]")
        page.screenshot(path=os.environ.get("SCREENSHOT", home / "screenshot.png"))

        tiles = page.locator(".widget-gridbox button")
        tiles.first.wait_for(timeout=120_000)
        assert tiles.count() <= 20
        page.get_by_label("mistakes only").uncheck()
        page.wait_for_function("document.querySelectorAll('.widget-gridbox button').length == 20")
        drawn = "[...document.querySelectorAll('img.widget-image')]"
        explained = f"{drawn}.filter(image => image.naturalWidth == 1000).length == 1"
        tiles.first.click()
        page.wait_for_function(explained, timeout=60_000)
        page.screenshot(path=os.environ.get("PANEL", home / "panel.png"))
        page.get_by_role("button", name="20 others").click()
        page.wait_for_function(f"!({explained})")
        place = page.locator("input[type=file]").bounding_box()
        place = {"x": place["x"] + 50, "y": place["y"] + 10}
        dragged = {"items": [], "files": [str(home / "green.png")], "dragOperationsMask": 1}
        mouse = page.context.new_cdp_session(page)  # Playwright itself cannot drop files
        for step in ("dragEnter", "dragOver", "drop"):
            mouse.send("Input.dispatchDragEvent", {"type": step, **place, "data": dragged})
        page.wait_for_function(explained, timeout=60_000)
        errors = page.locator(".jp-OutputArea [data-mime-type='application/vnd.jupyter.stderr']")
        assert errors.count() == 0
        browser.close()
    assert min(size) > 300
    assert (home / "results" / "predictions.png").is_file()


LEAFLET = """
const any = new Proxy(function () {}, {get: (_, key) => key == Symbol.toPrimitive ? () => "" : any,
                                       apply: () => any, construct: () => any});
window.L = any;
"""


def test_page_of_a_map_shows_its_figure_where_there_is_no_network(demo_tiles, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    pixels = demo_tiles.images[:4].reshape(2, 2, 64, 64, 3).transpose(4, 0, 2, 1, 3)
    size = {"count": 3, "height": 128, "width": 128, "dtype": "uint8", "driver": "GTiff"}
    grid = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    with rasterio.open(tmp_path / "scene.tif", "w", **size, **grid) as file:
        file.write(pixels.reshape(3, 128, 128))
    classifier = artifact.load(PROJECT / "saved_model" / "eurosat_cnn")
    known = {"scale": 0.275 / 254, "offset": -0.275 / 254, "level": "L1C"}
    land_cover = scenes.classify(
        tmp_path / "scene.tif", classifier, tmp_path / "map.tif", stride=64, **known
    )
    address = scenes.web_map(land_cover, tmp_path / "map.html").as_uri()
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=SILENT)
        page = browser.new_context(offline=True).new_page()
        page.goto(address)
        figure = page.locator("#picture img")
        figure.wait_for(timeout=60_000)
        assert figure.evaluate("image => image.naturalWidth") > 500
        page.screenshot(path=os.environ.get("MAP", tmp_path / "map.png"))
        page.add_init_script(LEAFLET)  # as if it had come from the network
        page.goto(address)
        assert page.locator("#picture").count() == 0
        assert page.get_by_text(land_cover.areas().index[0]).is_visible()  # in the legend
        browser.close()
