"""Tests of eurosat_helpers.progress. Its line in a notebook is in test_training.py."""

from eurosat_helpers import progress


def test_line_is_printed_again_outside_of_a_notebook(capsys):
    line = progress._ProgressLine()
    line.show("one")
    line.show("two")
    assert capsys.readouterr().out == "one\ntwo\n"
    assert not line.in_notebook
