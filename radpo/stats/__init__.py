"""Statistics: estimates, intervals, tests, and the one comparison of variants."""
