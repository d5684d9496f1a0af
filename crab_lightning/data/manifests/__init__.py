"""Reads manifest files: layouts of columns, samples and splits."""
