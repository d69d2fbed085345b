"""Commands that look at runs: status, show, runs, costs, report."""
