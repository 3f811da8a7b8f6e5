"""Budgets: prices, limits that hold before money is spent, and the ledger that proves them."""
