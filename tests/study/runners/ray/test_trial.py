"""What runs on a node, without a cluster: the folder it works in, and what it sends back."""

import dataclasses
from types import SimpleNamespace

import pytest

from groupnorm.environment import software
from groupnorm.files import write_atomic
from groupnorm.study.runners.launcher import Launcher
from groupnorm.study.runners.ray.trial import (
    INITIAL_FILES,
    STATE_FILES,
    TOKEN_FILE,
    EventQueue,
    InstallationError,
    Job,
    changed_files,
    installation,
    run_attempt,
    sees_same_folder,
    state_files,
)
from groupnorm.study.store import UNREADABLE, read_metrics, run_folder, to_json
from tests.study.runners.test_local import config, configs, run


def job_of(run_config, out, **changes):
    job = Job(
        name=run_config.run_name(),
        attempt=1,
        config=to_json(run_config.model_dump()),
        files={},
        initial_name=run_config.init,
        initial={},
        out=out,
        token="t",
        threads=1,
        device="cpu",
        data_root=None,
        stop_epoch=None,
        installation=installation(),
    )
    return dataclasses.replace(job, **changes)


@pytest.mark.slow
def test_a_trial_sends_its_record_and_another_place_goes_on_from_it(tmp_path):
    """The files sent up to epoch 1 are all that the second attempt has."""
    whole = config(epochs=3)
    name = whole.run_name()
    first, kept = [], {}

    class LostError(Exception):
        pass

    def lose(event):
        first.append(event)
        kept.update(event["files"])
        if event["event"] == "epoch":
            raise LostError

    with pytest.raises(LostError):
        run_attempt(job_of(whole, tmp_path / "elsewhere"), lose)
    assert first[0]["event"] == "started"
    assert not first[0]["shared"]
    assert set(kept) == {"env.json", "checkpoint.pt", "metrics.jsonl"}

    second = []
    assert run_attempt(job_of(whole, tmp_path, files=kept, attempt=2), second.append) is None
    assert [e["metrics"]["epoch"] for e in second if e["event"] == "epoch"] == [1, 2, 3]
    assert "DONE" in second[-1]["files"]
    for event in second:
        kept.update(event["files"])
    for file, content in kept.items():
        write_atomic(tmp_path / "sent" / file, content)
    records, _ = run(tmp_path / "local", {name: whole}, jobs=1)
    strip = [{**row, "timing": None} for row in read_metrics(tmp_path / "sent")]
    assert strip == [{**row, "timing": None} for row in records[0].metrics]
    assert not any((tmp_path / "elsewhere").glob("*"))


@pytest.mark.slow
def test_a_trial_elsewhere_starts_from_weights_that_are_sent_along(tmp_path):
    first = config(epochs=1)
    run(tmp_path, {first.run_name(): first}, jobs=1)
    sent = state_files(run_folder(tmp_path, first.run_name()), INITIAL_FILES)
    tuned, events = config(epochs=1, init=first.run_name()), []
    job = job_of(tuned, tmp_path / "elsewhere", initial=sent)
    assert run_attempt(job, events.append) is None
    assert any(b'"loaded"' in event["files"].get("env.json", b"") for event in events)


@pytest.mark.slow
def test_why_a_trial_has_no_result_and_its_log(tmp_path):
    events = []
    bad = job_of(config(), tmp_path, files={"checkpoint.pt": b"no checkpoint", "env.json": b"{}"})
    assert "checkpoint.pt does not end with a digest" in run_attempt(bad, events.append)
    assert "CheckpointError" in events[-1]["log"]
    assert "DONE" not in events[-1]["files"]


def test_a_shared_log_is_neither_read_nor_sent(tmp_path, monkeypatch):
    silent = SimpleNamespace(events=lambda: (), why_unfinished=lambda: "it did nothing")
    monkeypatch.setattr(Launcher, "launch", lambda *_, **__: silent)
    job = job_of(config(), tmp_path)
    run_folder(tmp_path, job.name).mkdir(parents=True)
    (tmp_path / TOKEN_FILE).write_text(job.token, encoding="utf-8")
    events = []
    assert run_attempt(job, events.append) is not None
    assert (events[0]["shared"], events[-1]["log"]) == (True, "")


def test_other_software_is_refused(tmp_path):
    other = {**installation(), "torch": "1.0"}
    with pytest.raises(InstallationError, match=r"the study runs with .*torch 1\.0"):
        run_attempt(job_of(config(), tmp_path, installation=other), lambda event: None)


def test_a_node_with_other_kernels_or_none_is_refused(tmp_path, monkeypatch):
    """The study's machine has kernels; the node has the same Python files and others, or none."""
    job = job_of(config(), tmp_path)
    assert software()["sources"] in job.installation["groupnorm"]
    trial = "groupnorm.study.runners.ray.trial"
    for kernels, backend in (("0123456789ab", "native: fast"), (None, "aten: slow")):
        node = {**software(), "kernels": kernels}
        monkeypatch.setattr(f"{trial}.software", lambda node=node: node)
        monkeypatch.setattr(f"{trial}.cpu_kernels", lambda backend=backend: backend)
        what = rf"kernels {kernels or 'not compiled'} \({backend}\)"
        with pytest.raises(InstallationError, match=f"{what}.*; the study runs with"):
            run_attempt(job, lambda event: None)


def test_the_driver_asks_nothing_of_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: pytest.fail("CUDA was touched"))
    installation()


def test_only_the_same_folder_counts_as_shared(tmp_path):
    name = next(iter(configs({})))
    run_folder(tmp_path, name).mkdir(parents=True)
    job = job_of(config(), tmp_path, token="mine")
    assert not sees_same_folder(job)
    (tmp_path / TOKEN_FILE).write_text("another study's")
    assert not sees_same_folder(job)
    (tmp_path / TOKEN_FILE).write_text("mine")
    assert sees_same_folder(job)


def test_files_are_sent_when_they_were_replaced(tmp_path):
    signatures = {}
    assert UNREADABLE in STATE_FILES
    names = ("checkpoint.pt", "metrics.jsonl")
    assert changed_files(tmp_path, names, signatures) == {}
    write_atomic(tmp_path / "checkpoint.pt", b"1")
    assert changed_files(tmp_path, names, signatures) == {"checkpoint.pt": b"1"}
    assert changed_files(tmp_path, names, signatures) == {}
    write_atomic(tmp_path / "checkpoint.pt", b"1")  # the same bytes, and yet a new state
    write_atomic(tmp_path / "metrics.jsonl", b"2")
    assert set(changed_files(tmp_path, names, signatures)) == set(names)
    assert state_files(tmp_path) == {"checkpoint.pt": b"1", "metrics.jsonl": b"2"}


def test_the_mailbox_keeps_order_and_of_a_file_the_newest():
    box = EventQueue()
    for attempt, number, files in ((1, 1, {"a": b"1", "b": b"1"}), (1, 2, {"a": b"2"}), (2, 3, {})):
        box.put({"name": "x", "attempt": attempt, "number": number, "files": files})
    box.put({"name": "y", "attempt": 1, "number": 4, "files": {"b": b"4"}})
    taken = box.take()
    assert [event["number"] for event in taken] == [1, 2, 3, 4]
    assert [event["files"] for event in taken] == [{"b": b"1"}, {"a": b"2"}, {}, {"b": b"4"}]
    assert box.take() == []


def test_a_damaged_file_is_named_as_that_of_the_study_not_of_the_node(tmp_path, monkeypatch):
    def launch(self, folder, **_):
        return SimpleNamespace(
            events=lambda: (), why_unfinished=lambda: f"{folder / 'checkpoint.pt'} is damaged"
        )

    monkeypatch.setattr(Launcher, "launch", launch)
    monkeypatch.setattr("groupnorm.study.runners.ray.trial._log_tail", lambda folder: "")
    job = job_of(config(), tmp_path)
    assert run_attempt(job, lambda event: None) == (
        f"{run_folder(tmp_path, job.name) / 'checkpoint.pt'} is damaged"
    )
