"""Every fresh output and workspace is filled with NaN, so that a result a kernel forgot to write is seen."""

import os

os.environ.setdefault("CNNEXT_POISON", "1")
