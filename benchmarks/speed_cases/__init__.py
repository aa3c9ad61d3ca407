"""What is timed by `speed.py`: one file a cost. Each has ``TITLE`` and ``rows()``, and runs in a process of its own."""
