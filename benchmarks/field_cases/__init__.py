"""Faults that were found in the field, one kind a file: each with its neighbours, tried on this package."""

from __future__ import annotations

import importlib
import pkgutil

from field_cases.trial import Kind

KINDS: list[Kind] = [
    kind
    for found in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name)
    if found.name != "trial"
    for kind in importlib.import_module(f"field_cases.{found.name}").KINDS
]
"""All kinds; a file of this folder that lists some as ``KINDS`` is found by itself."""
