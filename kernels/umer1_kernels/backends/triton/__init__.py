"""The CUDA backend: cuBLAS products and Triton kernels between them.

Modules here import triton; nothing imports them before a CUDA tensor asks for this backend, except
the operators of `hidden_gather` and `reward`, which import their kernels when they first run.
"""
