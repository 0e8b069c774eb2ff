"""What runs leave behind: logs, figures, curves, and comparisons of runs."""
