"""Captioned sounds and pictures for stage 1."""
