"""Plots of reports as SVG inside an HTML page. A plot is one file; matplotlib is imported only when one draws."""
