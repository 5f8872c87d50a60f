"""Webhooks: addresses that are told of jobs' ends, signed as Standard Webhooks has it.

A delivery is a row, added by a trigger in the transaction that ends its job, so none is forgotten;
a sender tries until it comes through, so one may come twice, under the same id.
"""
