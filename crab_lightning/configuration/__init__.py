"""How config files are read, checked and turned into objects."""
