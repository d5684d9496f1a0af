"""A trained run, loaded and asked."""
