"""`python -m darwin_neg_cpp` is `darwin-neg`."""

import sys

from .cli.main import main

sys.exit(main())
