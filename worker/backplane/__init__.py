"""The links between sibling workers."""
