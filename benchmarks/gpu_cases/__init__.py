"""What `gpu.py` measures: one file a kind of work, each with ``rows(device, quick)``."""
