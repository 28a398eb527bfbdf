"""The parameters of a notebook as values of a request's fields.

The cell tagged `parameters` has every field under its own name, in plain types: what is the same in all profiles as its
default, what the profile decides as the word `default`. A test holds the notebooks to that, so whatever a run was
asked, papermill can be asked too.
"""

from collections.abc import Mapping
from typing import Any

from wanavatar_lab.requests import Request, fields_of

DEFAULT = "default"  # what stands in the cell for a value that the profile decides


def chosen(request_class: type[Request], names: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a notebook gives to fields, without those that it leaves to the profile.

    Args:
        request_class: whose fields.
        names: of the notebook, with their values: `globals()`.
    """
    given = {name: names[name] for name in fields_of(request_class) if name in names}
    return {name: value for name, value in given.items() if value != DEFAULT}
