"""`python -m foreworld`: the command line without its script."""

import sys

from foreworld.cli import main

if __name__ == "__main__":
    sys.exit(main())
