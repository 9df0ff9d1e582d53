"""How to train: configuration, loop, schedules, checkpoint. Knows no norm and no study."""
