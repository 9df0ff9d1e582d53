"""Writing an ONNX file so that there is a whole one that the checker passes, or none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from groupnorm.export.errors import ExportError
from groupnorm.export.onnx_file.read import LARGEST_FILE, OnnxFile, tensors
from groupnorm.files import describe_os_error, first_line, write_atomic

if TYPE_CHECKING:
    from onnx import ModelProto


def check_target(file: OnnxFile, out: Path, overwrite: bool) -> None:
    """Check that a file can be written beside the one it was made from.

    Raises:
        ExportError: it is that file or holds its weights, it is there, or its folder is not.
    """
    for source in (file.path, *(file.path.parent / name for name in file.data_files)):
        if out.exists() and out.samefile(source):
            raise ExportError(f"{out} is read from; name another file to write, it is not replaced")
    if out.is_dir():
        raise ExportError(f"{out} is a folder; name a file to write, as {out / file.path.name}")
    if not out.parent.is_dir():
        raise ExportError(f"there is no folder {out.parent} to write {out.name} to; make it first")
    for path in (out, *_copies(file, out).values()):
        if path.exists() and not overwrite:
            raise ExportError(f"{path} exists; name another file, or ask to overwrite it")


def write_model(file: OnnxFile, out: Path) -> None:
    """Write the model of a file, which was changed; `check_target` has passed.

    Weights that the file keeps in others stay in them: where `out` is in another folder, in copies
    beside it.

    Raises:
        ExportError: it is too large, the checker refuses it though it passed the file, or it cannot
            be written; nothing is left.
    """
    copies = _copies(file, out)
    staged = out.with_name(f".{out.name}.{os.getpid()}.onnx")
    made: list[Path] = []
    passed = _refusal(file.path) is None
    try:
        for name, copy in copies.items():
            made.append(copy)
            _copy_atomic(file.path.parent / name, copy)
        _rename_data(file.model, {name: copy.name for name, copy in copies.items()})
        write_atomic(staged, _serialized(file.model))
        refusal = _refusal(staged)
        if refusal and passed:
            raise ExportError(
                f"the repaired model would not pass onnx.checker ({refusal}); nothing is written, "
                "please report it with the file"
            )
        os.replace(staged, out)
    except BaseException as error:
        for path in made:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ExportError(describe_os_error(error)) from None
        raise
    finally:
        staged.unlink(missing_ok=True)


def _copies(file: OnnxFile, out: Path) -> dict[str, Path]:
    """The data files of a file, and where those of `out` are, if that is in another folder."""
    if out.parent.is_dir() and out.parent.samefile(file.path.parent):
        return {}
    return {
        name: out.with_name(f"{out.name}.data{f'.{i}' if i else ''}")
        for i, name in enumerate(file.data_files)
    }


def _copy_atomic(source: Path, target: Path) -> None:
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(source, staged)
        os.replace(staged, target)
    finally:
        staged.unlink(missing_ok=True)


def _rename_data(model: ModelProto, names: dict[str, str]) -> None:
    for tensor in tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value in names:
                entry.value = names[entry.value]


def _serialized(model: ModelProto) -> bytes:
    try:
        data = bytes(model.SerializeToString())
    except Exception as error:  # protobuf has several, for what is too large
        raise ExportError(f"the model cannot be written: {first_line(error)}") from None
    if len(data) > LARGEST_FILE:
        raise ExportError(
            f"the repaired model has {len(data):,} bytes, an ONNX file holds at most "
            f"{LARGEST_FILE:,}; save the file with its weights as external data first"
        )
    return data


def _refusal(path: Path) -> str | None:
    """What onnx.checker says against a file; None when it passes."""
    from onnx.checker import check_model

    try:
        check_model(str(path))
    except Exception as error:  # of the C++ checker, of several kinds
        return first_line(error)
    return None
