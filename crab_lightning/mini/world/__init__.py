"""The synthetic world: its scenes, their pictures and sounds, and the datasets made of them."""
