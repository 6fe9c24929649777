"""Many scenes over two worker processes, of which one is killed in the middle."""

from __future__ import annotations

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


@pytest.mark.filterwarnings("ignore")  # Dask's own, when a worker dies
def test_all_maps_are_there_and_complete_although_a_worker_was_killed(demo_tiles, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs distributed")
    sources, maps = [], tmp_path / "maps"
    for number in range(12):
        tiles = demo_tiles.images[30 * number :][:36].reshape(6, 6, 64, 64, 3)
        sources.append(str(tmp_path / f"scene{number}.tif"))
        size = {"count": 3, "height": 384, "width": 384, "dtype": "uint8", "driver": "GTiff"}
        grid = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
        with rasterio.open(sources[-1], "w", **size, **grid) as file:
            file.write(tiles.transpose(4, 0, 2, 1, 3).reshape(3, 384, 384))
            file.scales, file.offsets = [0.275 / 254] * 3, [-0.275 / 254] * 3
            file.update_tags(level="L1C")
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
    expected = [str(maps / f"{tmp_path.name}_scene{number}_map.tif") for number in range(12)]
    assert sorted(line.partition(":")[0] for line in lines) == sorted(expected)
    classifier = artifact.load(PROJECT / "saved_model" / "eurosat_cnn")
    for number, source in enumerate(sources):
        alone = scenes.classify(source, classifier, tmp_path / "alone.tif")
        with rasterio.open(maps / f"{tmp_path.name}_scene{number}_map.tif") as file:
            np.testing.assert_array_equal(file.read(1), alone.classes)
    assert not list(maps.glob(".*.unfinished"))
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "0 of 12 scenes to map\n"
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(b"no scene")
    done = subprocess.run([*command, str(damaged)], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{damaged} failed: " in done.stdout
    assert "must be a raster" in done.stdout
    assert "1 scenes failed" in done.stderr
