"""The operations as users call them: schema, validation, registration with torch, dispatch. One file an operation.

`_validate` turns arguments into a `Problem` or an error, `_dispatch` holds what is prepared for each kind of call, and
`_library` registers everything with `torch.library`.
"""
