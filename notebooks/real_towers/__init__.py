"""Encoders of one's own: real networks whose weights come inside packages, small enough for a laptop."""
