"""The run: clips in, a feature directory out.

Public names: extract, Options, Report, plan_batches, pad.
"""
