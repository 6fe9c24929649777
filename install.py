"""Make the virtual environment `.venv` with everything that `requirements.txt` names.

Run with `python3 install.py`, again after each change of `requirements.txt`.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parent

if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit(
        "TensorFlow has no wheel for Python {}.{}: install uv and run `uv run --no-project "
        "--python 3.13 install.py`, or use a Python from 3.10 to 3.13.".format(*sys.version_info)
    )
python = PROJECT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
# One that another Python made, which may be gone by now, is made again.
check = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
try:
    fits = subprocess.run([python, "-c", check], check=False).returncode == 0
except OSError:  # there is none, or none that runs here
    fits = False
venv.create(PROJECT / ".venv", with_pip=True, symlinks=os.name != "nt", clear=not fits)
command = [python, "-m", "pip", "install", "--quiet", "--requirement", "requirements.txt"]
sys.exit(subprocess.run(command, cwd=PROJECT, check=False).returncode)
