"""One file per family of datasets: a function that draws a scene and writes its annotation."""
