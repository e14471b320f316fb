"""How sections of settings become one table: what a setting is, its words and its variable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct, structs

ENV_PREFIX: Final = "NOMAD_BRIDGE_"


class Section(Struct, frozen=True, kw_only=True):
    """A group of settings. Its ``repr`` hides the values of secret ones."""

    def __repr__(self) -> str:
        shown = (
            f"{item.name}={_shown(self, item)}"
            for item in (_described(type(self), field) for field in self.__struct_fields__)
        )
        return f"{type(self).__name__}({', '.join(shown)})"


class Setting(NamedTuple):
    """One row of the table. ``name`` is dotted; ``type`` is the annotated type.

    ``env`` is the environment variable. A ``secret`` value is never shown.
    """

    name: str
    type: Any
    default: object
    env: str
    help: str
    secret: bool

    @property
    def section(self) -> str:
        """The section, or an empty text for a setting of its own."""
        return self.name.rpartition(".")[0]

    @property
    def key(self) -> str:
        """The name within the section."""
        return self.name.rpartition(".")[2]

    @property
    def kind(self) -> str:
        """The type in words, for example ``a whole number``."""
        return _kind(get_args(self.type)[0])


def _kind(plain: Any) -> str:
    options = get_args(plain)
    if get_origin(plain) is Literal:
        return " or ".join(options)
    if get_origin(plain) is tuple:
        return f"a list of {_kind(options[0])}"
    if Path in (plain, *options):
        return "a path"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[plain]


def _described(section: type[Struct], field: str, prefix: str = "") -> Setting:
    hint = get_type_hints(section, include_extras=True)[field]
    metas = [part for part in get_args(hint)[1:] if isinstance(part, Meta)]
    info = next(item for item in structs.fields(section) if item.name == field)
    name = prefix + field
    return Setting(
        name=name,
        type=hint,
        default=info.default,
        env=ENV_PREFIX + name.replace(".", "_").upper(),
        help=next((meta.description or "" for meta in metas), ""),
        secret=any((meta.extra or {}).get("secret", False) for meta in metas),
    )


def _shown(section: Section, item: Setting) -> str:
    value = getattr(section, item.name)
    return "[secret]" if item.secret and value else repr(value)


def table(section: type[Struct], prefix: str = "") -> Iterator[Setting]:
    """The settings of a section and of the sections within it, in order."""
    for field in structs.fields(section):
        if isinstance(field.default, Section):
            yield from table(type(field.default), f"{prefix}{field.name}.")
        else:
            yield _described(section, field.name, prefix)
