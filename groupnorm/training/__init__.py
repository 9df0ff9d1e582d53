"""How to train: configuration, loop, schedules, optimizer, checkpoint. Knows no norm and no study."""
