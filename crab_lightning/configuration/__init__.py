"""Config files before the parser sees them."""
