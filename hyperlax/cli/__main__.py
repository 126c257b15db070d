"""`python -m hyperlax.cli`."""

import sys

from hyperlax.cli.edge import main

sys.exit(main())
