"""A thin package behind two notebooks: the notebooks tell the story, each module does one job.

| module | job |
|---|---|
| `data` | load, split and sample: a folder or a zip becomes `Tiles` in memory |
| `sources` | find the tiles: which folder, zip or download to take |
| `download` | fetch a published archive and verify it |
| `reading` | check and decode the files, and cache the pixels |
| `demo` | draw made-up tiles, for a machine with no data and for the tests |
| `files` | write a file whole or not at all, one process at a time |
| `pipeline` | `Tiles` become batches of a `tf.data.Dataset` |
| `models` | the network: normalization, augmentation and convolutions in one Keras model |
| `checkpoint` | the state of a training in a file |
| `training` | device set-up, learning-rate schedule, class weights, `fit` |
| `transfer` | networks with ImageNet weights: a new head, and the fine-tuning of the rest |
| `tuning` | search for good settings of the network and of `fit`, with KerasTuner |
| `features` | what a network sees in a tile, and scikit-learn's classifiers on it |
| `ensemble` | several predictions of a tile become one, and several models one model |
| `evaluation` | probabilities become scores, tables, calibration and a temperature |
| `runs` | keep every run's scores and validation predictions, and compare runs |
| `artifact` | export the SavedModel with its metadata, reload it, save results |
| `classifier` | what `artifact.load` returns: checked input, predictions in batches |
| `plots` | arrays become figures |

Import the modules, not their names: `from eurosat_helpers import data, models`.
"""

import os as _os

# TensorFlow writes notes to the process's standard error while it is imported, some of them before
# it reads its own log level, and they would land in the notebook. Whoever sets TF_CPP_MIN_LOG_LEVEL
# (0 shows why a GPU is not found) gets them all.
if "TF_CPP_MIN_LOG_LEVEL" not in _os.environ:
    _os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    _stderr = _os.dup(2)
    with open(_os.devnull, "w") as _nowhere:
        _os.dup2(_nowhere.fileno(), 2)
    try:
        import tensorflow as _tensorflow  # noqa: F401
    finally:
        _os.dup2(_stderr, 2)
        _os.close(_stderr)
