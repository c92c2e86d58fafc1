"""Training measured: random-weight Qwen2-VL shapes, pairs and rollouts of a given length spread, our steps."""
