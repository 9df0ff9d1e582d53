"""One run in a process of its own: `python -m groupnorm.study.runners.worker FOLDER`.

Reads `config.json` from the folder and reports its progress to its parent in JSON lines on standard
output. It ends when its standard input closes, so that no run outlives the study that started it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from groupnorm.files import describe_os_error
from groupnorm.study.record import record_run
from groupnorm.study.store import StoreError, read_config

PROGRESS_INTERVAL = 0.5  # seconds between two lines about steps


def work(
    folder: Path,
    *,
    threads: int,
    device: str,
    data_root: Path | None,
    stop_epoch: int | None,
) -> None:
    """Finish the run in `folder`, or train it up to `stop_epoch`; its record is in the folder."""
    last_line = 0.0

    def on_step(step: int, total: int) -> None:
        nonlocal last_line
        now = time.monotonic()
        if now - last_line >= PROGRESS_INTERVAL or step == total:
            last_line = now
            _send("step", step=step, total=total)

    config = read_config(folder)
    if config is None:
        raise StoreError(f"{folder} holds no config.json, which says what to train")
    record_run(
        config,
        folder,
        threads=threads,
        device=device,
        data_root=data_root,
        **({} if stop_epoch is None else {"stop_epoch": stop_epoch}),
        on_step=on_step,
        on_epoch=lambda metrics: _send("epoch", metrics=metrics),
    )


def _send(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def _die_with_parent() -> None:
    # os.read, not sys.stdin: a thread inside a buffered read makes the interpreter abort at exit
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-root", type=Path, default=None)
    parser.add_argument("--stop-epoch", type=int, default=None)
    arguments = parser.parse_args()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        work(
            arguments.folder,
            threads=arguments.threads,
            device=arguments.device,
            data_root=arguments.data_root,
            stop_epoch=arguments.stop_epoch,
        )
    except OSError as error:
        _send("failed", reason=describe_os_error(error))
        raise
    except Exception as error:
        _send("failed", reason=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
