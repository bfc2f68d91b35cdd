"""Run the project's CUDA kernels on the host: see README.md in this folder."""
