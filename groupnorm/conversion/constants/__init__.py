"""Norms as constants (`freeze`, `freeze_groups`), and in the layers in front of them (`fold`)."""
