"""Progress: what begins and the time left, on standard error, if it is asked for."""

from groupnorm.conversion.calibration.progress import Progress


def test_lines(capsys, monkeypatch):
    now = iter([0.0, 30.0, 400.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    progress = Progress(4, shown=True)
    progress.show(0, "norm 1")
    progress.show(1, "norm 2")
    progress.show(2, "norm 3")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "norm 1\nnorm 2, 90 s left\nnorm 3, 7 min left\n"


def test_silence(capsys):
    Progress(4, shown=False).show(1, "norm 2")
    assert capsys.readouterr() == ("", "")
