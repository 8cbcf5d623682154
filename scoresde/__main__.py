"""Runs the command line: `python -m scoresde` is the same as `scoresde`."""

from scoresde.cli.start import entry

if __name__ == "__main__":
    entry()
