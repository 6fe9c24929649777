"""The scripts beside the package: the environment, and notebooks that are committed."""

import functools
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import PROJECT


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="its programs are elsewhere")
def test_environment_of_a_python_that_is_gone_is_made_again(tmp_path):
    shutil.copy(PROJECT / "install.py", tmp_path)
    (tmp_path / "requirements.txt").touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for name in ("python", "python3"):
        python.with_name(name).symlink_to(tmp_path / "gone")
    for kept in (False, True):  # the second time it fits
        marker = tmp_path / ".venv" / "marker"
        marker.touch()
        subprocess.run([sys.executable, tmp_path / "install.py"], check=True)
        version = subprocess.check_output([python, "--version"], text=True)
        assert version.split()[1] == sys.version.split()[0]
        assert marker.exists() == kept


def test_notebook_that_failed_or_has_other_cells_is_not_committed(tmp_path):
    script = tmp_path / "tests" / "commit_notebooks.py"
    for folder in ("tests", "results"):
        (tmp_path / folder).mkdir()
    shutil.copy(PROJECT / "tests" / script.name, script)
    cell = functools.partial(nbformat.v4.new_code_cell, execution_count=1)
    error = nbformat.v4.new_output("error", ename="KeyError", evalue="x", traceback=[])
    shown = nbformat.v4.new_output("stream", text="2\n")
    executed = {
        "good": [
            cell("1 + 1", outputs=[shown]),
            cell("a = 2", metadata={"tags": ["injected-parameters"]}),
        ],
        "failed": [cell("1 + 1", outputs=[error])],
        "running": [cell("1 + 1", execution_count=None)],
        "older": [cell("1 + 0", outputs=[shown])],
    }
    for name, cells in executed.items():
        notebook = nbformat.v4.new_notebook(cells=[cell("1 + 1")])
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
        notebook = nbformat.v4.new_notebook(cells=cells)
        nbformat.write(notebook, tmp_path / "results" / f"{name}.ipynb")
    before = {name: (tmp_path / f"{name}.ipynb").read_bytes() for name in executed}
    said = subprocess.check_output([sys.executable, script], text=True)
    for name in ("failed", "running"):
        assert f"{name}.ipynb: left as it is, it did not end" in said
    assert "older.ipynb: left as it is, other cells were executed" in said
    changed = {
        name for name in executed if (tmp_path / f"{name}.ipynb").read_bytes() != before[name]
    }
    assert changed == {"good"}
    assert nbformat.read(tmp_path / "good.ipynb", 4).cells[0].outputs == [shown]
