"""Trials of conversions: every teacher of a study is converted in several ways, and measured.

A teacher is a run of the study, trained with batch norm. A trial (`trial`) says how its network is
converted, with how many images, and whether it is fine-tuned. `conversion_pass` has the trials done
by processes (`job`), each of which reads one teacher (`teacher`), converts its network (`methods`),
trains it further where the trial says so (`finetuning`) and writes the result (`records`).
"""
