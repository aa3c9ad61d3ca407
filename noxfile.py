"""What `.ci/run` checks, piece by piece, in environments of their own.

After `python -m pip install nox uv`, `nox` runs the style check, the types and the fast tests, `nox -l` lists all
sessions, and `nox -s oldest newest` runs the tests on the versions at both ends of what pyproject.toml allows.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests"]
PARALLEL = ("-n", "auto", "--dist", "worksteal")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format, by ruff."""
    session.install("ruff>=0.8")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types, by mypy in its strict mode."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The fast tests; `nox -s tests -- -k masks` hands arguments on to pytest."""
    session.install("-e", ".[test]")
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """The tests that take long, start several processes, or read the data that REFLOW_DATA points to."""
    session.install("-e", ".[dev]")
    session.run("pytest", "-n", "auto", "--dist", "loadscope", "-m", "slow or distributed or data", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """The fast tests with coverage; fails below the floor that pyproject.toml sets."""
    session.install("-e", ".[test]", "pytest-cov>=6")
    session.run("pytest", *PARALLEL, "--cov", "--cov-report=term:skip-covered", *session.posargs)


@nox.session(venv_backend="uv")
def oldest(session: nox.Session) -> None:
    """The fast tests on the oldest versions that pyproject.toml allows."""
    session.install("--resolution", "lowest-direct", "-e", ".[test]")
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session(venv_backend="uv")
def newest(session: nox.Session) -> None:
    """The fast tests on the newest versions that there are."""
    session.install("--upgrade", "-e", ".[test]")
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, strictly; into `site/`."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", "build", "--strict")
