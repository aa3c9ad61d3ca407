"""The application and other programs, each in a process of its own, that need not import everything again.

A fresh interpreter spends most of its time importing torch and Lightning. Here one process imports them, does nothing
else, and every command is run in a copy of it: with its own folder, environment, output and exit status.

What is about the start itself (an import that prints, a capability that a new process lacks) needs a fresh interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from scenarios.processes import IMPORTED

_SECONDS = 300


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    status: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout + self.stderr


def application(folder: Path, *arguments: str, before: Callable[[], object] | None = None) -> Done:
    """Run ``python -m reflow_lightning`` in a folder; `before` is called first, and can be pickled."""
    return _run(_module, ("reflow_lightning", *arguments), folder, before)


def program(text: str, folder: Path) -> Done:
    """Run a program, given as its text, in a folder."""
    return _run(_text, (text,), folder, None)


def _module(name: str, *arguments: str) -> None:
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _text(text: str) -> None:
    sys.argv = ["-c"]
    exec(compile(text, "<program>", "exec"), {"__name__": "__main__"})


def _run(main: Callable[..., None], given: Sequence[str], folder: Path, before: Callable[[], object] | None) -> Done:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    with TemporaryDirectory() as outputs:
        process = context.Process(target=_begin, args=(main, given, folder, _environment(), Path(outputs), before))
        process.start()
        process.join(_SECONDS)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{given} did not end in {_SECONDS} seconds")
        texts = [(Path(outputs) / name).read_text() for name in ("1", "2")]
        return Done(process.exitcode, *texts)


def _environment() -> dict[str, str]:
    environment = os.environ | {"COLUMNS": "200", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("HYDRA_FULL_ERROR", None)
    return environment


def _begin(
    main: Callable[..., None],
    given: Sequence[str],
    folder: Path,
    environment: dict[str, str],
    outputs: Path,
    before: Callable[[], object] | None,
) -> None:
    """In the new process: take its place, its environment and its outputs, then run."""
    for stream in (1, 2):
        os.dup2(os.open(outputs / str(stream), os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if before is not None:
        before()
    main(*given)
