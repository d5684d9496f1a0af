"""Keeps decoded media on disk."""
