"""Many scenes over two worker processes, of which one is killed in the middle."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio
from conftest import PROJECT

from eurosat_helpers import artifact, scenes

pytestmark = pytest.mark.slow
UTM = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}


def write(file, tiles, **grid):
    """Write a mosaic of 36 tiles as a scene that says what its numbers mean."""
    pixels = tiles.reshape(6, 6, 64, 64, 3).transpose(4, 0, 2, 1, 3).reshape(3, 384, 384)
    size = {"count": 3, "height": 384, "width": 384, "dtype": "uint8", "driver": "GTiff"}
    with rasterio.open(file, "w", **size, **grid) as scene:
        scene.write(pixels)
        scene.scales, scene.offsets = [0.275 / 254] * 3, [-0.275 / 254] * 3
        scene.update_tags(level="L1C")
    return str(file)


def map_of(source, maps):
    """Where the map of a scene must be: its name has those of scene and folder, and is its own."""
    folder, name = os.path.split(source)
    mark = hashlib.sha256(source.encode()).hexdigest()[:8]
    return maps / f"{os.path.basename(folder)}_{os.path.splitext(name)[0]}_{mark}_map.tif"


@pytest.mark.filterwarnings("ignore")  # Dask's own, when a worker dies
def test_all_maps_are_there_and_complete_although_a_worker_was_killed(demo_tiles, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs distributed")
    sources, maps = [], tmp_path / "maps"
    for number in range(12):
        tiles = demo_tiles.images[30 * number :][:36]
        sources.append(write(tmp_path / f"scene{number}.tif", tiles, **UTM))
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    command = [sys.executable, "examples/many_scenes.py", str(maps), *sources]
    with distributed.LocalCluster(**options) as cluster:
        environment = os.environ | {"DASK_SCHEDULER": cluster.scheduler_address}
        running = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True
        )
        while len(list(maps.glob("*_map.tif"))) < 3:  # what the killed worker did stays done
            assert running.poll() is None
            time.sleep(0.05)
        assert cluster.scheduler.workers[cluster.workers[0].worker_address].processing
        os.kill(cluster.workers[0].pid, signal.SIGKILL)
        output, _ = running.communicate(timeout=300)
    assert running.returncode == 0
    first, *lines = output.splitlines()
    assert first == "12 of 12 scenes to map"
    expected = [str(map_of(source, maps)) for source in sources]
    assert sorted(line.partition(":")[0] for line in lines) == sorted(expected)
    classifier = artifact.load(PROJECT / "saved_model" / "eurosat_cnn")
    for source in sources:
        alone = scenes.classify(source, classifier, tmp_path / "alone.tif")
        with rasterio.open(map_of(source, maps)) as file:
            np.testing.assert_array_equal(file.read(1), alone.classes)
    assert not list(maps.glob(".*.unfinished"))
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "0 of 12 scenes to map\n"
    other = map_of(sources[0], maps)
    with rasterio.open(other, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.update_tags(model="another model, 2020-01-01")
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"1 of 12 scenes to map\n{other}: ")
    with rasterio.open(other) as file:
        assert file.tags()["model"].startswith("eurosat_cnn, ")
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(b"no scene")
    done = subprocess.run([*command, str(damaged)], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{damaged} failed: " in done.stdout
    assert "must be a raster" in done.stdout
    assert "1 scenes failed" in done.stderr


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_scenes_of_one_name_have_a_map_each_and_without_georeference_no_areas(demo_tiles, tmp_path):
    pytest.importorskip("distributed", reason="needs distributed")
    sources, maps = [], tmp_path / "maps"
    for number, grid in enumerate((UTM, {})):
        folder = tmp_path / f"site{number}" / "images"
        folder.mkdir(parents=True)
        tiles = demo_tiles.images[100 * number :][:36]
        sources.append(write(folder / "scene.tif", tiles, **grid))
    command = [sys.executable, "examples/many_scenes.py", str(maps)]
    for given, said in (
        (sources[:1], "1,475 ha"),
        (sources, "no areas, since the scene has no georeference"),
    ):
        done = subprocess.run(
            [*command, *given], cwd=PROJECT, capture_output=True, text=True, check=True
        )
        first, line = done.stdout.splitlines()
        assert first == f"1 of {len(given)} scenes to map"
        assert line == f"{map_of(given[-1], maps)}: {said}"
