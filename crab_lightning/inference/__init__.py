"""Loads a trained run and asks it questions."""
