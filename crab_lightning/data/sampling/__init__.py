"""Chooses the samples, their order and their batches."""
