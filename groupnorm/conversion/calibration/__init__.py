"""A norm of constants replaced by group normalization, fitted to data.

Of one layer, functions on tensors: what a norm saw (`moments`), signs (`signs`), the scale and
offset in front of the new norm and its affine (`fit`), the number of groups (`group_rule`), and the
convolution in front (`affine`, `refit`). Of a network: its data (`batches`), the way from norm to
norm (`segments`, on `tape` and `states`), all its norms (`network`) and its outputs (`distill`).
"""
