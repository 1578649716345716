"""The command line, `foreworld`: one module a group of commands; `foreworld --help` lists them."""

from foreworld.cli.app import app as app
from foreworld.cli.app import main as main
