"""Every op once more in Triton, as namespace ``cnnext_triton``, with the schemas of ``csrc/library.cpp``.

Importing this package does not import triton. :func:`~cnnext.triton.support.refuse` says whether a case can run, and
loads the kernels the first time that one can.
"""

from cnnext.triton.support import NAMESPACE, off, refuse

__all__ = ["NAMESPACE", "off", "refuse"]
