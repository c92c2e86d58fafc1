"""How the plans of plans.py run, over any backend's primitives (protocol.py)."""
