"""How well scores agree with labels: joining, protocols, intervals, robustness, reports."""
