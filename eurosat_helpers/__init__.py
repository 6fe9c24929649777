"""A thin package behind two notebooks: the notebooks tell the story, each module does one job.

Import the modules, not their names: `from eurosat_helpers import data, models`.
"""

import os as _os
import sys as _sys

# TensorFlow takes GPU memory as it needs it, instead of all of it at once.
_os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
# Without it TensorFlow uses the faster kernels of oneDNN only on CPUs that have AVX512.
_os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# While it is imported, TensorFlow logs some lines before it reads its log level. A Jupyter kernel
# shows them in the notebook, so they go where the kernel's standard error went before: the terminal
# or the log of the server. With TF_CPP_MIN_LOG_LEVEL set (0 shows why a GPU is not found),
# everything is in the notebook.
if "TF_CPP_MIN_LOG_LEVEL" not in _os.environ:
    _os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if (_server := getattr(_sys.stderr, "_original_stdstream_copy", None)) is not None:  # ipykernel
        _notebook = _os.dup(2)
        _os.dup2(_server, 2)
        try:
            import tensorflow as _tensorflow
        finally:
            _os.dup2(_notebook, 2)
            _os.close(_notebook)
