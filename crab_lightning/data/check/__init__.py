"""Checks a data root before a run."""
