"""How much each weight matters: one file a criterion."""
