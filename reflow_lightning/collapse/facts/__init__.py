"""What is known of the values in a graph, for every input."""
