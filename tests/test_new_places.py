"""The report on new places: halves by the hash of the names, and the scores of both states."""

from __future__ import annotations

import hashlib
import runpy
import sys

import pytest
from conftest import PROJECT

from eurosat_helpers import corruptions, data, models

SCRIPT = str(PROJECT / "examples" / "new_places.py")


@pytest.fixture(autouse=True)
def beside_the_script(monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT / "examples"))


def test_report_splits_the_test_tiles_by_the_hash_of_their_names(demo_tiles, monkeypatch):
    monkeypatch.setattr(corruptions, "CORRUPTIONS", {"darker": corruptions.CORRUPTIONS["darker"]})
    parts = data.split(demo_tiles, validation_fraction=0.2)
    size = {"stem_width": 4, "widths": (4,), "blocks": (1,)}
    model = models.build_cnn(mean=[90] * 3, variance=[900] * 3, seed=0, **size)
    row = runpy.run_path(SCRIPT)["report"](model, parts)
    answers = model.predict(parts[2].images, verbose=0).argmax(axis=1) == parts[2].labels
    even = [
        hashlib.sha256(name.split("/")[1].encode()).hexdigest()[-1] in "02468ace"
        for name in parts[2].names
    ]
    assert row["even half"] == pytest.approx(answers[even].mean())
    assert row["all"] == pytest.approx(answers.mean())
    every = data.sample(parts[2], len(parts[2]), seed=0)
    darker = model.predict(corruptions.corrupt(every.images, "darker"), verbose=0).argmax(axis=1)
    assert row["changed"] == pytest.approx((darker == every.labels).mean())


def test_a_model_that_was_tested_elsewhere_is_refused(demo_tiles):
    parts = data.split(demo_tiles, validation_fraction=0.2)
    script = runpy.run_path(SCRIPT)
    with pytest.raises(SystemExit, match=r"eurosat_cnn` must be trained with `test_names`"):
        script["load"](str(PROJECT / "saved_model" / "eurosat_cnn"), script["Parts"](*parts))


def test_models_must_be_named(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["new_places.py", "names.txt"])
    with pytest.raises(SystemExit, match="folders of saved models or `fine_tuned`"):
        runpy.run_path(SCRIPT, run_name="__main__")
