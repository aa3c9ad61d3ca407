"""The trials of a search in a file, from which it goes on after it was stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reflow_lightning.running.files import write_whole
from reflow_lightning.running.processes import warn
from reflow_lightning.search import Trial

TRIALS = "trials.json"


class SavedTrials(dict[float, Trial]):
    """Trials by the sparsity that was asked for; each new one is written at once.

    Args:
        path: The file.
        config: The settings of the run, which go into it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "trials.json"
        >>> SavedTrials(path, {"seed": 0})[0.5] = Trial(0.5, 0.93, 1.2)
        >>> read_trials(path)
        ({'seed': 0}, {0.5: Trial(sparsity=0.5, score=0.93, seconds=1.2)})
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        super().__init__()
        self._path, self._config = path, config

    def __setitem__(self, asked: float, trial: Trial) -> None:
        """Keep a trial; if it can't be written, a warning says so, and the search goes on."""
        super().__setitem__(asked, trial)
        content = {"config": self._config, "trials": [[sparsity, *made] for sparsity, made in self.items()]}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps(content).encode())
        except OSError as error:
            warn(f"{self._path} could not be written, and the search goes on without it: {error}")


def read_trials(path: Path) -> tuple[dict[str, Any], dict[float, Trial]]:
    """The settings and the trials in a file; none if there is no file that can be read."""
    try:
        content = json.loads(path.read_text())
        return content["config"], {float(asked): Trial(*made) for asked, *made in content["trials"]}
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        warn(f"{path} can't be read ({error}): its trials are made again")
        return {}, {}
