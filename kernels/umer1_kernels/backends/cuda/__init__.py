"""Our own CUDA kernels, in the compiled extension. Importing `operators` needs the extension.

Never run on a GPU yet. `limits.NATIVE` says what each takes; `backend="cuda"` asks for it.
"""
