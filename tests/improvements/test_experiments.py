"""The experiments in full size: what can be tested without hours of training."""

import subprocess
import sys

import pytest
from conftest import PROJECT

TWO_DEVICES = """
import sys

import keras_tuner
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

sys.path.insert(0, "examples")
import experiments

from eurosat_helpers import data, devices, training
from eurosat_helpers.improvements import tuning

folder, directory = sys.argv[1:]
devices.set_up(seed=0)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
parts = experiments.Parts(*data.split(data.load(folder), validation_fraction=0.2))
small = {"stem_width": 4, "widths": (4,), "blocks": (1,)}
replicas = []
fit = training.fit


def noticed(model, *arguments, **settings):
    replicas.append(model.distribute_strategy.num_replicas_in_sync)
    return fit(model, *arguments, **settings)


training.fit = noticed


def experiment(parts):
    model = experiments.cnn(parts.train, **small)
    settings = {"epochs": 1, "batch_size": 20, "learning_rate": 1e-3, "policy": "float32"}
    training.fit(model, parts.train, parts.validation, seed=0, **settings)
    space = keras_tuner.HyperParameters()
    space.Choice("stages", [1])
    space.Choice("width", [4])
    settings |= {"method": "random", "trials": 1, "directory": directory, "space": space}
    print(tuning.search(parts.train, parts.validation, seed=0, **settings))


experiments.run([experiment], parts, strategy)
assert replicas == [2, 2], replicas
sys.argv = ["experiments.py"]
try:
    experiments.main()
except SystemExit as error:
    print(error)
"""


@pytest.mark.slow
def test_models_of_experiments_and_of_the_search_are_built_on_all_devices(demo_folder, tmp_path):
    command = [sys.executable, "-c", TWO_DEVICES, demo_folder, tmp_path]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    # Without a name the experiments are listed.
    assert "\nfine_tuned " in run.stdout
    assert "Name one or more of these. Received: nothing." in run.stdout
