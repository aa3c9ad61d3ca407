"""The callbacks, and what they ask of the Trainer."""
