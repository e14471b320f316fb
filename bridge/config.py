"""The loader of the configuration: file, over that environment, over that flags.

Whatever is wrong becomes one ``ConfigError`` in one line that names where it
stands, the key and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
import yaml
from msgspec import structs

from bridge import log
from bridge.errors import ConfigError
from bridge.models.image import registry_of
from bridge.settings import SETTINGS, Config, host_port, is_loopback
from bridge.settings_table import ENV_PREFIX, Setting

__all__ = ["ENV_PREFIX", "SETTINGS", "Config", "Setting", "host_port", "is_loopback", "load"]

_BY_NAME: Final = {setting.name: setting for setting in SETTINGS}
_BY_ENV: Final = {setting.env: setting for setting in SETTINGS}
_SECTIONS: Final = tuple(dict.fromkeys(item.section for item in SETTINGS if item.section))
# A misspelt variable would be silently without effect. Only names that start
# like one of ours are judged: orchestrators set NOMAD_BRIDGE_PORT and the like.
_ENV_SECTIONS: Final = tuple(f"{ENV_PREFIX}{section.upper()}_" for section in _SECTIONS)


def load(
    path: Path | None, environ: Mapping[str, str], flags: Mapping[str, object] | None = None
) -> Config:
    """The configuration from a YAML file, the environment and flags, the last one winning.

    ``flags`` has dotted names (``server.bind``); None there means not given.
    Relative paths count from the folder of the file they stand in, else from
    the current folder. Values of secret settings are cut from logs from now on.

    Raises ConfigError.
    """
    base = path.absolute().parent if path else Path.cwd()
    values: dict[str, _Value] = {}
    for given in (
        *(_from_file(path) if path else ()),
        *_from_environment(environ),
        *_from_flags(flags or {}),
    ):
        values[given.setting.name] = _checked(given)
    config = _completed(_built(values), base)
    _check_together(config, values)
    _hide_secrets(config)
    return config


class _Value(NamedTuple):
    """A value, where it was given, and the folder its relative paths start from."""

    setting: Setting
    value: Any
    where: str
    base: Path


def _from_file(path: Path) -> Iterator[_Value]:
    for name, value in _flat(path, _parsed(path)):
        if name not in _BY_NAME:
            raise _wrong(path, f"{name}: unknown key; {_suggestion(name, list(_BY_NAME))}")
        if value is not None:
            yield _Value(_BY_NAME[name], value, f"{path}: {name}", path.absolute().parent)


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Value]:
    for name, text in environ.items():
        setting = _BY_ENV.get(name)
        if setting is not None:
            where = f"environment: {name}"
            yield _Value(setting, _from_text(setting, text), where, Path.cwd())
        elif name.startswith(_ENV_SECTIONS):
            hint = _suggestion(name, list(_BY_ENV))
            raise _wrong("environment", f"{name}: unknown variable; {hint}")


def _from_flags(flags: Mapping[str, object]) -> Iterator[_Value]:
    for name, value in flags.items():
        if value is not None:
            setting = _BY_NAME[name]
            plain = _from_text(setting, value) if isinstance(value, str) else value
            yield _Value(setting, plain, f"command line: {name}", Path.cwd())


def _from_text(setting: Setting, text: str) -> Any:
    """A text as the plain value it stands for; lists are separated by commas."""
    if isinstance(setting.default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(setting.default, str):
        return text
    try:
        return msgspec.convert(text, type(setting.default), strict=False)
    except (msgspec.ValidationError, TypeError):
        return text  # refused, or made a path, in _checked with everything else


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                problem = f"{name!r} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _parsed(path: Path) -> Mapping[Any, Any]:
    try:
        # _UniqueKeys is a SafeLoader: it makes plain values only.
        document = yaml.load(path.read_text("utf-8"), Loader=_UniqueKeys)  # noqa: S506
    except OSError as error:
        problem = f"cannot be read: {error.strerror}; give the path of a file you may read"
        raise _wrong(path, problem) from error
    except UnicodeDecodeError as error:
        raise _wrong(path, "is not UTF-8 text; save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable characters"
        raise _wrong(f"{path}{line}", f"is not valid YAML: {problem}; correct it") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise _wrong(path, "must hold keys and values; see config.example.yaml")
    return document


def _flat(path: Path, document: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if key not in _SECTIONS:
            yield str(key), value
        elif isinstance(value, dict):
            for inner, setting in value.items():
                yield f"{key}.{inner}", setting
        elif value is not None:
            raise _wrong(path, f"{key}: is a section; put its keys below it, indented")


def _suggestion(name: str, known: list[str]) -> str:
    same_key = [item for item in known if item.rpartition(".")[2] == name]
    close = same_key or difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else "remove it, or see config.example.yaml"


def _checked(given: _Value) -> _Value:
    """The value as its type, or ConfigError."""
    setting = given.setting
    raw = None if given.value == "" and setting.default is None else given.value
    try:
        value = msgspec.convert(
            raw, setting.type, dec_hook=lambda _, plain: _path(plain, given.base)
        )
        if setting.name in _CHECKS and value != "":
            _CHECKS[setting.name](value)
    except (msgspec.ValidationError, ValueError) as error:
        problem = str(error).partition(" - at ")[0]
        raise _wrong(given.where, f"{problem}; give {_example(setting)}") from error
    return given._replace(value=value)


def _path(plain: object, base: Path) -> Path:
    if not isinstance(plain, str | Path) or not str(plain):
        raise ValueError("Expected a path")
    try:
        return base / Path(plain).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{plain} has no home folder") from error


def _example(setting: Setting) -> str:
    default = setting.default
    shown = ", ".join(default) if isinstance(default, tuple) else default
    return setting.kind + (f", for example {shown}" if shown not in ("", None) else "")


def _wrong(where: object, problem: object) -> ConfigError:
    # A value quoted in the problem may hold line breaks; the error is one line.
    return ConfigError(" ".join(f"{where}: {problem}".split()))


def _url(*schemes: str) -> Callable[[str], None]:
    def check(url: str) -> None:
        # The value may hold a password: it is not repeated.
        if urlsplit(url).scheme not in schemes:
            raise ValueError(f"must start with {' or '.join(f'{item}://' for item in schemes)}")

    return check


def _hosts_and_ports(servers: tuple[str, ...]) -> None:
    for server in servers:
        host_port(server)


def _registries(hosts: tuple[str, ...]) -> None:
    for host in hosts:
        if host != "*" and registry_of(f"{host}/image") != host:
            raise ValueError(f"{host!r} is no HOST or HOST:PORT of a registry")


_CHECKS: Final[Mapping[str, Callable[[Any], object]]] = {
    "server.bind": host_port,
    "server.public_url": _url("http", "https"),
    "database.url": _url("sqlite", "postgresql", "postgresql+psycopg"),
    "images.registries": _registries,
    "nomad.address": _url("http", "https"),
    "nomad.servers": _hosts_and_ports,
    "nomad.ui_url": _url("http", "https"),
    "storage.bind": host_port,
    "storage.server": _url("http", "https"),
}


def _built(values: Mapping[str, _Value]) -> Config:
    config = Config()
    for section in ("", *_SECTIONS):
        changes = {
            item.setting.key: item.value
            for item in values.values()
            if item.setting.section == section
        }
        if section:
            changes = {section: structs.replace(getattr(config, section), **changes)}
        config = structs.replace(config, **changes)
    return config


def _completed(config: Config, base: Path) -> Config:
    """With the defaults that hang on ``data_dir``."""
    data_dir = base / config.data_dir
    url = config.database.url or f"sqlite:///{data_dir}/bridge.db"
    return structs.replace(
        config,
        data_dir=data_dir,
        database=structs.replace(config.database, url=url),
        local=structs.replace(config.local, node_home=config.local.node_home or data_dir / "node"),
    )


def _check_together(config: Config, values: Mapping[str, _Value]) -> None:
    """What one value alone cannot tell."""

    def refuse(problem: str, *names: str) -> ConfigError:
        given = [values[name].where for name in names if name in values]
        return _wrong(given[0] if given else f"default of {names[0]}", problem)

    local, nomad = config.local, config.nomad
    open_door = not is_loopback(config.server.bind)
    bare = "local" in config.connectors and local.runtime == "process"
    if bare and open_door and not local.allow_remote_process:
        raise refuse(
            "with local.runtime: process, others could run programs as this user; use "
            "local.runtime: docker, or a loopback address, or allow_remote_process: true",
            "server.bind",
        )
    if "nomad" in config.connectors and not nomad.address:
        problem = "nomad needs the URL of a Nomad server; set nomad.address"
        raise refuse(problem, "nomad.address", "connectors")
    for token in ("token", "node_token"):
        if getattr(nomad, token) and getattr(nomad, f"{token}_file"):
            problem = f"{token} and {token}_file are both set; remove one of them"
            raise refuse(problem, f"nomad.{token}")
    for pair in _PAIRS:
        if len({getattr(nomad, name) is None for name in pair}) > 1:
            problem = f"{' and '.join(pair)} belong together; set both or none"
            raise refuse(problem, *(f"nomad.{name}" for name in pair))
    if nomad.ca_key_file and nomad.node_key_file:
        problem = "node_cert_file is for bridges without a ca_key_file; remove one of them"
        raise refuse(problem, "nomad.node_cert_file")


# Files of the section nomad that are of no use alone.
_PAIRS: Final = (
    ("client_cert", "client_key"),
    ("ca_cert_file", "ca_key_file"),
    ("node_cert_file", "node_key_file"),
)


def _hide_secrets(config: Config) -> None:
    log.redact(config.nomad.token)
    log.redact(config.nomad.node_token)
    log.redact(urlsplit(config.database.url).password or "")
