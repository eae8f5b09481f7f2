"""Fixtures of the worker's unit tests."""

from tests.unit.worker.mesh import run

__all__ = ["run"]
