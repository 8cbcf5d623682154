"""`python -m scoresde`: the command line, cli.py."""

from scoresde.cli.main import entry

if __name__ == "__main__":
    entry()
