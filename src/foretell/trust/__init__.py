"""Knowing when not to be trusted: surprise, novelty, intervals and what a controller does about them."""
