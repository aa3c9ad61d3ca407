"""What `sharded.py` measures: one file a question. Each runs the same functions in some number of processes."""
