"""Download the files of a data set, all of them or none."""

from __future__ import annotations

import http.client
import shutil
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path


def download_files(what: str, urls: Mapping[Path, str], check: Callable[[Path], object], remedy: str) -> None:
    """Download files; nothing half-finished is left behind.

    Args:
        what: The data set, for the message.
        urls: The address of each file, by the path that it gets.
        check: Raises a `ValueError` for a file that is damaged, or is another one. It is given the path of the
            download, which ends with ``.part``.
        remedy: What to do if the files can't be had.

    Raises:
        RuntimeError: If one can't be had. Then none is kept.
    """
    parts = {path.with_name(f"{path.name}.part"): path for path in urls}
    try:
        for part, path in parts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(urls[path], timeout=60) as response, part.open("wb") as file:  # noqa: S310
                shutil.copyfileobj(response, file)
            check(part)
        for part, path in parts.items():
            part.replace(path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RuntimeError(f"could not download {what} ({error}): {remedy}") from error
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
