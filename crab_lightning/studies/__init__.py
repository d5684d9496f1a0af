"""Studies: a grid of ordinary runs, the transfer between tasks that it shows, and what the routers do."""
