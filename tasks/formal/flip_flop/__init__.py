"""Flip-flop language: attention errs where recurrence does not."""
