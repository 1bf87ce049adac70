"""`regionstyle evaluate`: the shipped networks measured against exact truth."""
