"""The writer: targets of listings in, writes to their shops out, each carried out once.

``writer`` decides inside the lane and keeps the tables; ``pump`` makes the calls of one shop, as fast as its
bucket pays for and its ``breaker`` allows; ``levels`` follows what the shops tell of their levels, and
``looks`` knows when what they tell is to be read.
"""

from agents.shopify.writer import Rules, decode_correction, decode_target, register

__all__ = ["Rules", "decode_correction", "decode_target", "register"]
