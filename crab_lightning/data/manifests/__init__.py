"""Manifest files to samples: column layouts, the reader, dataset rows and splits."""
