"""Decoded media kept on disk."""
