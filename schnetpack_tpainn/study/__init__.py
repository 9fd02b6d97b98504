"""Compare strategies: run them, collect their errors, tabulate and plot."""
