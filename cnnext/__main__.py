"""``python -m cnnext``."""

import sys

from cnnext.cli import main

sys.exit(main())
