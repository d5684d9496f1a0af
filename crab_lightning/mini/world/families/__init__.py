"""The builders of the items, one module for each kind of clip."""
