"""Many tasks, one protocol: every recipe on every task of a suite, told in a ledger."""
