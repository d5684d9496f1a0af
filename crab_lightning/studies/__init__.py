"""Studies: grids of runs, the transfer between tasks that the runs show, and the routes of their heads."""
