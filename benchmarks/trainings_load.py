"""Load checkpoints in a process that can't import this package: prints the names of those that fail, as JSON.

python benchmarks/trainings_load.py '[["vae", "epoch=1.ckpt"]]'
"""

import json
import sys
from pathlib import Path
from types import ModuleType

TESTS = Path(__file__).parent.parent / "tests"

sys.modules["reflow_lightning"] = None  # type: ignore[assignment]
sys.modules["zoo"] = zoo = ModuleType("zoo")  # whose networks, unlike its trainings, need the package
zoo.__path__ = [str(TESTS / "zoo")]

if __name__ == "__main__":
    from trainings_trial import load_plainly
    from zoo.trainings import TRAININGS

    found = {training.name: training for training in TRAININGS}
    print(json.dumps([name for name, path in json.loads(sys.argv[1]) if load_plainly(found[name], Path(path))]))
