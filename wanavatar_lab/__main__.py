"""`python -m wanavatar_lab` is the command `wanavatar-lab`."""

import sys

from wanavatar_lab.cli import main

sys.exit(main())
