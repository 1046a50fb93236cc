"""Run every recipe on every task of a suite under one protocol, and write the results to a ledger."""
