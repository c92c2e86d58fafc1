"""What a finished run tells: oracle, pass@k, fusions, routers, dependence on the reasoning."""
