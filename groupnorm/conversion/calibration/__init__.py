"""A norm of constants replaced by group normalization: the numbers of one layer, from data.

Functions on tensors, which know no network: what a norm saw (`moments`), signs (`signs`), the scale
and offset in front of the new norm and its affine (`fit`), the number of groups (`group_rule`), the
convolution in front (`affine`, `refit`) and the order of channels (`permutation`).
"""
