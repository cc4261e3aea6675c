"""Everything outside: shops, warehouses, notifications."""
