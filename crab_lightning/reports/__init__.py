"""Reports about runs: matching of answer files, bootstrap intervals, tables, published figures, web pages."""
