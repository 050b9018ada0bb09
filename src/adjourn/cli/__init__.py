"""The command line. Everything heavy is imported by the command that needs it: `adjourn --help` stays quick."""

from adjourn.cli.app import main

__all__ = ["main"]
