"""Settings declared once: at the field of their dataclass; inputs of nodes, options of commands and checks follow."""
