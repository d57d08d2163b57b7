"""The oracle: writers who remember what they were promised, and judges who compare it with what is there."""
