"""Methods and their recipes."""
