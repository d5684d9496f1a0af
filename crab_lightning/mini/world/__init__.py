"""The synthetic world: scenes, pictures, sounds, rows and trees."""
