"""Put the executed notebooks of `results/` in place of the committed ones, if their cells agree.

Outputs and figures stay. What goes are timings, paths, progress bars that need a kernel, and the
cell in which papermill passes parameters.
"""

from pathlib import Path

import nbformat

PROJECT = Path(__file__).resolve().parent.parent

for committed in (*PROJECT.glob("*.ipynb"), *PROJECT.glob("examples/*.ipynb")):
    executed = PROJECT / "results" / committed.name
    if not executed.exists():
        continue
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    sources = [
        [cell.source for cell in one.cells] for one in (notebook, nbformat.read(committed, 4))
    ]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    failed = any(output.output_type == "error" for output in outputs)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    failed = failed or any(cell.execution_count is None for cell in code)  # it may still run
    if failed or sources[0] != sources[1]:
        why = "it did not end" if failed else "other cells were executed"
        print(f"{committed.relative_to(PROJECT)}: left as it is, {why}")
        continue
    number = 0
    for position, cell in enumerate(notebook.cells):
        cell.id = f"cell-{position:02}"
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            number += 1
            cell.execution_count = number
            for output in cell.outputs:
                # A widget needs a kernel; a picture in its place stays.
                if output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None):
                    output.data = {k: v for k, v in output.data.items() if k == "image/png"}
            cell.outputs = [output for output in cell.outputs if output.get("data", True)]
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = number
    nbformat.write(notebook, committed)
    print(f"{committed.relative_to(PROJECT)}: {number} cells")
