"""Programs of benchmarks that are written in C."""

from __future__ import annotations

from pathlib import Path

from tools.lab import processes
from tools.lab.errors import LabError


def compiled(source: str, directory: Path) -> str:
    """Path of the program of a source file beside this one, made in a directory; LabError when it cannot be made."""
    program = directory / Path(source).stem
    try:
        processes.run(["gcc", "-O2", "-o", str(program), str(Path(__file__).with_name(source))])
    except LabError as error:
        raise LabError(f"{source}, which this benchmark needs, cannot be compiled: {error}") from None
    return str(program)
