"""How error grows up to twelve hours ahead: direct, token by token, recursive and two-rate models beside each other."""
