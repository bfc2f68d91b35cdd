"""One file per op: normalise the arguments, choose the backend; the op's fake and autograd formula."""
