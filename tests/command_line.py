"""The command line, run in the tests' own process."""

from cnnext.cli import main


def run(line):
    """The exit code of a command line; argparse leaves by SystemExit."""
    try:
        return main(line.split())
    except SystemExit as leaving:
        return leaving.code
