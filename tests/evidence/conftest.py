"""The untrained model of the command line's tests, for protocols that need one."""

from tests.cli.conftest import model

__all__ = ["model"]
