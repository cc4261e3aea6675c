"""Measurements against peers, in the same run, on a real local broker. ``skustream bench`` runs them."""
