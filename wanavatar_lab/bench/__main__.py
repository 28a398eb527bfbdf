"""`python -m wanavatar_lab.bench`."""

import sys

from wanavatar_lab.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
