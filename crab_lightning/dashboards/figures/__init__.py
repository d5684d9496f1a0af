"""Figures of the dashboards: matplotlib without a display, from plain records and decoded clips."""
