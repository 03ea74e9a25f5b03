"""Listening tests: sample sets, the blind test, its answers, statistics, and exchange with other tools."""
