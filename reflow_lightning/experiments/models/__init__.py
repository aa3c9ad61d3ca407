"""Networks that no other library offers in the form that the experiments need."""
