"""Files that are damaged, disks that are full, folders that may not be written to."""

from __future__ import annotations

import io
import os
import resource
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from faults_outcome import Outcome, differences, in_child, start
from faults_training import SPARSITY, Batches, Classifier, quiet_trainer, train

from reflow_lightning import Masks, Reflow
from reflow_lightning.experiments.checkpoints import load_weights

NOBODY = 65534


def some_masks(seed: int) -> Masks:
    """Random masks of three layers."""
    generator = torch.Generator().manual_seed(seed)
    return Masks({f"{i}.weight": torch.rand(8, 8, 3, 3, generator=generator) > 0.5 for i in range(3)})


def truncate_masks(times: int, folder: Path, chance: Random) -> Outcome:
    """A file of masks of which only the beginning is there."""
    some_masks(0).save(folder / "whole")
    content, path, outcome = (folder / "whole").read_bytes(), folder / "masks.pt", Outcome()
    for i in range(times):
        path.write_bytes(content[: len(content) * i // times])
        _expect(outcome, lambda: Masks.load(path), ValueError, str(path))
    return outcome


def flip_masks(times: int, folder: Path, chance: Random) -> Outcome:
    """A file of masks with another byte somewhere: refused, or the masks are the same all the same."""
    masks, path, outcome = some_masks(0), folder / "masks.pt", Outcome()
    masks.save(path)
    content = path.read_bytes()
    for _ in range(times):
        changed = bytearray(content)
        changed[chance.randrange(len(content))] ^= chance.randint(1, 255)
        path.write_bytes(changed)
        outcome.tried += 1
        try:
            found = Masks.load(path)
        except ValueError:
            outcome.seen["refused"] += 1
        else:
            outcome.seen["the same masks"] += found == masks
            if found != masks or list(found) != list(masks):
                outcome.damage.append("loads as other masks")
    return outcome


def truncate_weights(times: int, folder: Path, chance: Random) -> Outcome:
    """A checkpoint of which only the beginning is there, read for its weights."""
    return _truncate_checkpoint(times, folder, load_weights, ValueError)


def truncate_resumed(times: int, folder: Path, chance: Random) -> Outcome:
    """A checkpoint of which only the beginning is there, resumed from; its reader is Lightning's."""
    return _truncate_checkpoint(times, folder, _resume, Exception)


def _resume(module: Classifier, path: Path) -> None:
    quiet_trainer(Reflow(SPARSITY)).fit(module, Batches(), ckpt_path=str(path))


def _truncate_checkpoint(
    times: int, folder: Path, read: Callable[[Classifier, Path], None], kind: type[Exception]
) -> Outcome:
    child, pipe = start(train, folder, 1)
    while pipe.recv()[0] != "done":
        pass
    child.join()
    content, path, outcome = (folder / "last.ckpt").read_bytes(), folder / "part.ckpt", Outcome()
    module = Classifier()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for i in range(times):
        path.write_bytes(content[: len(content) * i // times])
        _expect(outcome, lambda: read(module, path), kind, str(path) if kind is ValueError else "")
        outcome.damage += [f"{name[1:]} differs" for name in differences(dict(module.state_dict()), before)]
    return outcome


def fill_disk_with_masks(times: int, folder: Path, chance: Random) -> Outcome:
    """The disk is full before the file is whole: the system refuses to write beyond so many bytes."""
    return _fail_to_write(times, folder, chance, write_masks, Masks.load, _limit_file_size)


def fill_disk_with_checkpoint(times: int, folder: Path, chance: Random) -> Outcome:
    """The same with a checkpoint, written by Lightning."""
    return _fail_to_write(times, folder, chance, write_checkpoint, _load_checkpoint, _limit_file_size)


def lock_folder_of_masks(times: int, folder: Path, chance: Random) -> Outcome:
    """The folder may be read, not written to. Root may do everything, so the child gives its rights up."""
    try:
        return _fail_to_write(times, folder, chance, write_masks, Masks.load, _give_up_rights)
    finally:
        folder.chmod(0o755)


def write_masks(path: Path, seed: int) -> None:
    """Masks that depend on a seed."""
    some_masks(seed).save(path)


def write_checkpoint(path: Path, seed: int) -> None:
    """A checkpoint that depends on a seed."""
    torch.manual_seed(seed)
    trainer = quiet_trainer(max_steps=1)
    trainer.fit(Classifier(), Batches())
    trainer.save_checkpoint(path)


def try_to_write(
    write: Callable[[Path, int], None], path: Path, prepare: Callable[[Path, float], None], share: float
) -> str | None:
    """In a child: the message of the error, or ``None``."""
    torch.set_num_threads(1)
    os.chdir(path.parent)  # whoever may not pass through the folders above can still be there
    path = Path(path.name)
    prepare(path, share)
    try:
        write(path, 1)
    except OSError as error:
        return str(error)
    return None


def _fail_to_write(
    times: int,
    folder: Path,
    chance: Random,
    write: Callable[[Path, int], None],
    load: Callable[[Path], Any],
    prepare: Callable[[Path, float], None],
) -> Outcome:
    """Write a file over another one where that can't succeed: an error says so, and the other one is still there."""
    outcome, path = Outcome(), folder / "file"
    in_child(write, path, 0)
    before, content = load(path), path.read_bytes()
    for _ in range(times):
        message = in_child(try_to_write, write, path, prepare, chance.random())
        outcome.tried += 1
        if message is None:
            outcome.damage.append("no error was raised")
            continue
        outcome.seen["refused: " + message.replace(str(folder) + "/", "")] += 1
        if path.read_bytes() != content or differences(load(path), before):
            outcome.damage.append("the file of before is gone")
        outcome.damage += [f"{left.name} is left beside" for left in folder.iterdir() if left != path]
    return outcome


def _limit_file_size(path: Path, share: float) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * path.stat().st_size), resource.RLIM_INFINITY))


def _give_up_rights(path: Path, share: float) -> None:
    path.parent.chmod(0o555)
    torch.save(0, io.BytesIO())  # which imports what it needs, while this process may still read it
    if os.getuid() == 0:
        os.setuid(NOBODY)


def _load_checkpoint(path: Path) -> Any:
    return torch.load(path, weights_only=True)["state_dict"]


def _expect(outcome: Outcome, action: Callable[[], object], kind: type[Exception], words: str) -> None:
    """That an action is refused, with a message that has these words."""
    outcome.tried += 1
    try:
        action()
    except kind as error:
        if words not in str(error):
            outcome.damage.append(f"the error does not name the file: {error}")
        outcome.seen["refused"] += 1
    except Exception as error:
        outcome.damage.append(f"{type(error).__name__} instead of {kind.__name__}: {error}")
    else:
        outcome.damage.append("it was accepted")
