"""Pictures in the loggers that show some: TensorBoard, Weights & Biases and MLflow."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger

from reflow_lightning.running.compat.lightning import is_one
from reflow_lightning.running.processes import warn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOW = ("TensorBoardLogger", "WandbLogger", "MLFlowLogger")
_ALL = 8


def has_pictures(number: int, is_last: bool) -> bool:
    """Whether the pictures of a prune event are drawn.

    The first eight events have pictures, then the 16th, the 32nd, the 64th and so on, and the last one. A schedule that
    prunes hundreds of times would otherwise draw for minutes.

    Args:
        number: Of the event in this training, from 1.
        is_last: No event is to come.

    Example:
        >>> [number for number in range(1, 101) if has_pictures(number, number == 100)]
        [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 100]
    """
    return number <= _ALL or is_last or number & (number - 1) == 0


def log_picture(loggers: Iterable[Logger], name: str, draw: Callable[[], Figure], step: int, done: int) -> None:
    """Draw a picture and give it to all loggers that show some; without such a logger, or Matplotlib, it is not drawn.

    Args:
        loggers: Those of a trainer; rank zero alone must call this.
        name: Group and name of the picture.
        draw: Draws it.
        step: What the loggers count as its step.
        done: Number of optimizer steps that were done, by which files are named.
    """
    showing: list[Any] = [logger for logger in loggers if any(is_one(logger, kind) for kind in _SHOW)]
    if not showing or find_spec("matplotlib") is None:
        return
    try:
        figure = draw()
        for logger in showing:
            _give(logger, name, figure, step, done)
    except Exception as error:  # Matplotlib or a logger may raise anything: no training ends for want of a picture
        warn(f"the picture {name} of step {step} was left out ({type(error).__name__}: {error})")


def _give(logger: Any, name: str, figure: Figure, step: int, done: int) -> None:
    if is_one(logger, "TensorBoardLogger"):
        logger.experiment.add_figure(name, figure, step)
    elif is_one(logger, "WandbLogger"):
        logger.log_image(name, [_image(figure)], step=step)
    else:
        logger.experiment.log_figure(logger.run_id, figure, f"{name}/step_{done:08d}.png")


def _image(figure: Figure) -> Any:
    """The figure as an image of Pillow's, for a logger that takes no figure of Matplotlib's."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer)
    buffer.seek(0)
    return Image.open(buffer)
