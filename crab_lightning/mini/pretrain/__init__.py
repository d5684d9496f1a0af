"""How the mini base model and its mask decoder are trained."""
