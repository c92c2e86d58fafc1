"""Inference measured: random-weight Qwen2-VL shapes, scripted generations, and the ways to run them."""
