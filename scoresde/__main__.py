"""`python -m scoresde`: the command line, cli.py."""

import sys

from scoresde.cli import main

if __name__ == "__main__":
    sys.exit(main())
