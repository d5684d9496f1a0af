"""Which samples are drawn, in which order and batches."""
