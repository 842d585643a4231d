"""`python -m histill` is `histill`."""

import sys

from histill.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
