"""What all sections of the configuration have in common."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


def yaml_key(attribute: str) -> str:
    """Return the key in YAML, where the unit stands in the value instead."""
    return attribute.removesuffix("_seconds").removesuffix("_bytes")


class Section(BaseModel):
    """One mapping of the configuration; it cannot be changed and knows all its keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=yaml_key,
        # Python code writes Policy(tag_ttl_seconds=60); the loader switches names off.
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        # An input may be a secret.
        hide_input_in_errors=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_means_default(cls, given: Any) -> Any:  # noqa: ANN401 -- whatever YAML holds
        """Accept ``cache:`` with every line below it commented out."""
        if given is None:
            return cls._given_nothing()
        if not isinstance(given, Mapping):
            return given
        keys = {field.alias for field in cls.model_fields.values() if field.default is not None}
        return {key: value for key, value in given.items() if value is not None or key not in keys}

    @classmethod
    def _given_nothing(cls) -> dict[str, object]:
        return {}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        """Write defaults as people write them: ``10m``, not 600."""
        reference = handler(core_schema)
        properties = handler.resolve_ref_schema(reference).get("properties", {})
        for key, value in cls.written_defaults().items():
            if "default" in properties.get(key, {}):
                properties[key]["default"] = value
        return reference

    @classmethod
    def written_defaults(cls) -> dict[str, Any]:
        """Return the default of each key that has one, as it is written in YAML."""
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return cls.model_construct().model_dump(mode="json", include=optional, warnings=False)

    def overlaid(self, own: Self) -> Self:
        """Return this section with everything that was given explicitly in *own*."""
        given = {name: getattr(own, name) for name in own.model_fields_set}
        for name, value in given.items():
            base = getattr(self, name)
            if isinstance(base, Section):
                given[name] = base.overlaid(value)
        return self.model_copy(update=given)
