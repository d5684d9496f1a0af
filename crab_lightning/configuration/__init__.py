"""Read and check config files, and turn them into objects."""
