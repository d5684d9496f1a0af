"""Reads captioned sounds and pictures for stage 1."""
