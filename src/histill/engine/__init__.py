"""Runs that can be killed and go on: stages, the loop, checkpoints, prediction."""
