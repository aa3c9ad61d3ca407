"""The application and other programs, each in a process of its own, that need not import everything again.

A fresh interpreter spends most of its time importing torch and Lightning. Here one process imports them, does nothing
else, and every command is run in a copy of it: with its own folder, environment, output and exit status.

What is about the start itself (an import that prints, a capability that a new process lacks) needs a fresh interpreter,
and so do the workers of joblib, which live until an interpreter ends.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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


@dataclass(frozen=True)
class Running:
    """A command that has been started."""

    process: BaseProcess
    outputs: TemporaryDirectory[str]

    def finish(self) -> Done:
        """Wait for its end.

        Raises:
            TimeoutError: If it takes too long; it is killed then.
        """
        with self.outputs as folder:
            self.process.join(_SECONDS)
            if self.process.exitcode is None:
                self.process.kill()
                raise TimeoutError(f"a command did not end in {_SECONDS} seconds")
            texts = [(Path(folder) / name).read_text() for name in ("1", "2")]
            return Done(self.process.exitcode, *texts)


def application(folder: Path, *arguments: str, before: Callable[[], object] | None = None) -> Done:
    """Run ``python -m reflow_lightning`` in a folder; `before` is called first, and can be pickled."""
    return _start(_module, ("reflow_lightning", *arguments), folder, before).finish()


def start_application(folder: Path, *arguments: str) -> Running:
    """The same, without waiting for its end."""
    return _start(_module, ("reflow_lightning", *arguments), folder)


def application_afresh(folder: Path, *arguments: str, before: Callable[[], object] | None = None) -> Done:
    """The same as `application`, in an interpreter that starts from nothing."""
    command = [sys.executable, "-m", "reflow_lightning", *arguments]
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": _SECONDS, "env": _variables()}
    done = subprocess.run(command, cwd=folder, preexec_fn=before, **options)
    return Done(done.returncode, done.stdout, done.stderr)


def program(text: str, folder: Path) -> Done:
    """Run a program, given as its text, in a folder."""
    return _start(_text, (text,), folder).finish()


def _module(name: str, *arguments: str) -> None:
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _text(text: str) -> None:
    sys.argv = ["-c"]
    exec(compile(text, "<program>", "exec"), {"__name__": "__main__"})


def _start(
    main: Callable[..., None],
    given: Sequence[str],
    folder: Path,
    before: Callable[[], object] | None = None,
) -> Running:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    outputs = TemporaryDirectory()
    arguments = (main, given, folder, _variables(), Path(outputs.name), before)
    process = context.Process(target=_begin, args=arguments)
    process.start()
    return Running(process, outputs)


def _variables() -> dict[str, str]:
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
    sys.path.insert(0, str(folder))  # as with `python -m` and `python -c`
    if before is not None:
        before()
    main(*given)
