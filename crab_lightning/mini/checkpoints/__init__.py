"""Tiny checkpoints that the real loading code reads."""
