"""Map many scenes with Dask: over the cores of this machine, or the workers of a cluster.

Run `python examples/many_scenes.py maps scene1.tif scene2.tif ...`, with the address of a
scheduler in DASK_SCHEDULER to use its workers, which must see the same files. The scenes must say
what their numbers mean: scale, offset and level, as products and what `scenes.fetch` writes do. It
needs `.venv/bin/pip install distributed`. A scene whose worker dies goes to another one; a map is
written completely or not at all, so running the command again does only what is missing, or was
mapped by another model. The name of a map is that of the folder and of the scene, and a mark of the
complete path.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import rasterio
from distributed import Client, as_completed

from eurosat_helpers import artifact, record, scenes

MODEL = Path(__file__).resolve().parent.parent / "saved_model" / "eurosat_cnn"


def classify(source: str, output: str) -> str:
    """Map one scene on a worker, and return what was done."""
    land_cover = scenes.classify(source, artifact.load(MODEL), output)
    if np.isnan(land_cover.cell_metres):
        return f"{output}: no areas, since the scene has no georeference"
    return f"{output}: {land_cover.areas()['hectares'].sum():,.0f} ha"


def maker(file: Path) -> str | None:
    """Read which model made a map, and when that was trained; `None` without a map."""
    if not file.exists() or not file.with_name(f"{file.name}.aux.xml").exists():
        return None  # the names of the classes are written last
    with rasterio.open(file) as land_cover:
        return land_cover.tags().get("model")


def main(folder: str, sources: list[str]) -> None:
    """Map the scenes whose maps by this model are not in the folder yet; print one line each."""
    maps = Path(folder).resolve()  # a worker may run in another folder
    maps.mkdir(parents=True, exist_ok=True)
    sources = [source if "://" in source else str(Path(source).resolve()) for source in sources]
    outputs = {}
    for source in sources:  # many products name their images and folders alike
        path, mark = Path(source), hashlib.sha256(os.fsencode(source)).hexdigest()[:8]
        outputs[source] = maps / f"{path.parent.name}_{path.stem}_{mark}_map.tif"
    about, _ = record.read(MODEL)
    model = f"{MODEL.name}, {about['date']}"
    missing = [(source, str(file)) for source, file in outputs.items() if maker(file) != model]
    print(f"{len(missing)} of {len(outputs)} scenes to map", flush=True)
    with Client(os.environ.get("DASK_SCHEDULER")) as client:
        futures = {client.submit(classify, *pair, retries=2): pair[0] for pair in missing}
        failed = 0
        for future in as_completed(futures):
            error = future.exception()
            print(f"{futures[future]} failed: {error}" if error else future.result(), flush=True)
            failed += error is not None
            future.release()  # or a worker that dies later takes it along, and it is done again
    if failed:
        sys.exit(f"{failed} scenes failed. Run the command again to try them once more.")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("Give a folder for the maps, then one or more scenes.")
    main(sys.argv[1], sys.argv[2:])
