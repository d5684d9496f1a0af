"""Small checkpoints that are made without a download and read by the same code as the published ones."""
