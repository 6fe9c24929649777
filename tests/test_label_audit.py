"""The audit of labels finds those that were changed, and keeps what a person has judged."""

from __future__ import annotations

import dataclasses
import runpy

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT

from eurosat_helpers import artifact


@pytest.fixture
def audit(monkeypatch, tmp_path):
    pytest.importorskip("cleanlab", reason="needs cleanlab")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(PROJECT / "examples"))
    return runpy.run_path(str(PROJECT / "examples" / "label_audit.py"))


def test_changed_labels_are_found_and_judgements_are_kept(audit, demo_tiles):
    rng = np.random.default_rng(0)
    logits = 4 * np.eye(10)[demo_tiles.labels] + rng.normal(0, 0.5, (len(demo_tiles), 10))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    changed = rng.permutation(len(demo_tiles))[:8]
    labels = demo_tiles.labels.copy()
    labels[changed] = (labels[changed] + 3) % 10
    tiles = dataclasses.replace(demo_tiles, labels=labels)
    table = audit["issues"](tiles, probabilities)
    assert set(table.file) == set(np.array(tiles.names)[changed])
    assert 5 <= table.flagged.sum() <= 8  # the method estimates how many are wrong
    assert table.score.is_monotonic_increasing
    right = pd.Series(demo_tiles.truth, index=demo_tiles.names)
    assert (table.suggested.to_numpy() == right[table.file].to_numpy()).all()

    audit["TABLE"].parent.mkdir()
    table.loc[2, "judgement"] = "wrong"
    table.to_csv(audit["TABLE"], index=False)
    again = audit["issues"](tiles, probabilities)
    pd.testing.assert_frame_equal(again, table)


def test_label_that_was_judged_wrong_is_corrected_without_a_score_too(
    audit, demo_tiles, monkeypatch
):
    monkeypatch.chdir(PROJECT)
    names = artifact.load("saved_model/eurosat_cnn").test_names
    labels = np.array([demo_tiles.class_names.index(name.split("/")[0]) for name in names])
    images = np.broadcast_to(demo_tiles.images[:1], (len(names), 64, 64, 3))  # all the same
    changed = {"images": images, "labels": labels, "names": np.array(names)}
    tiles = dataclasses.replace(demo_tiles, **changed)
    answer = artifact.load("saved_model/eurosat_cnn").predict(images[:1]).argmax()
    row = {"file": names[np.flatnonzero(labels != answer)[0]], "score": np.nan, "flagged": False}
    row |= {"suggested": demo_tiles.class_names[answer], "judgement": "wrong"}
    scores = audit["cleaned"](tiles, pd.DataFrame([row]))
    one_more = scores.accuracy["as given"] + 1 / len(names)
    assert scores.accuracy["wrong ones corrected"] == pytest.approx(one_more, abs=1e-9)


def test_judgements_stay_where_the_networks_contradict_no_more(audit, demo_tiles):
    right = np.eye(10)[demo_tiles.labels] * 0.9 + 0.01
    others = right.copy()
    first, second = others[[3, 50]] = np.roll(right[[3, 50]], 1, axis=1)
    assert first.argmax() != second.argmax()
    table = audit["issues"](demo_tiles, others)
    audit["TABLE"].parent.mkdir()
    table["judgement"] = ["right", ""]
    table.to_csv(audit["TABLE"], index=False)
    for _ in range(2):  # from the table as it was, and from one with a row that was kept
        kept = audit["issues"](demo_tiles, right)
        assert kept.file.tolist() == table.file[:1].tolist()
        assert kept.judgement.tolist() == ["right"]
        assert kept.score.isna().all()
        assert not kept.flagged.any()
        kept.to_csv(audit["TABLE"], index=False)
    others[3] = np.roll(right[3], 2)  # another suggestion: not what was judged
    again = audit["issues"](demo_tiles, others)
    assert again.score.notna().tolist() == [True, True, False]
    assert again.judgement.tolist() == ["", "", "right"]
    assert again.suggested[2] == table.suggested[0]
