"""Checks of a data root before a run."""
