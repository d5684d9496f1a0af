"""Reports: answer files joined to rows, bootstrap intervals, tables, published figures and the HTML page."""
