"""Figures of the dashboards, drawn with matplotlib without a display from records and decoded clips."""
