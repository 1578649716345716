"""`Options`: a frozen configuration that can gain fields without changing what was written before them."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Options(BaseModel):
    """A frozen configuration that refuses unknown fields.

    Fields named in `later` came after the first format was fixed. They are left out of a dump where they have their
    default, so that a file, a hash or a run that does not use them is what it was, and earlier versions read it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        unused = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in dumped.items() if name not in unused}
