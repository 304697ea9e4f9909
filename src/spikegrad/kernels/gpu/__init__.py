"""Triton kernels for GPUs of NVIDIA and AMD."""
