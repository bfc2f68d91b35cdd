"""``make build``: compile what changed, into the source tree."""

import sys

from . import CPU, CUDA, PACKAGE, SOURCE_ROOT, BuildError

try:
    CPU.build(PACKAGE / CPU.file, SOURCE_ROOT / "build" / CPU.name, show=True)
    reason = CUDA.unwanted()
    if reason is None:
        CUDA.build(PACKAGE / CUDA.file, SOURCE_ROOT / "build" / CUDA.name, show=True)
    else:
        print(f"cnnext: the {CUDA.title} is not built: {reason}")
except BuildError as error:
    sys.exit(f"cnnext: {error}")
