"""Words on the command line: options generated from the settings, and what the command answers without serving.

No setting is declared here, and no value is judged: texts go to `load_config` as they were typed. Neither Trio
nor the server is imported before there is something to serve, so `--help`, `--version`, `--print-config` and
every mistake in the configuration are answered at once. A mistake is one line on stderr and exit code 2.
"""

from __future__ import annotations

import os
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from msgspec import Struct

from trioserve import __version__
from trioserve.config import ConfigError, LoadedConfig, Setting, dump_toml, load_config, settings
from trioserve.config.model import GROUPS
from trioserve.process.standard_streams import open_standard_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USAGE_ERROR = 2
"""Exit code for what is wrong on the command line or in the configuration."""

_HELP_WIDTH = 110
_EPILOG = "Each setting is also a key of the TOML file and an environment variable; see docs/settings.md."


class Request(Struct, frozen=True):
    """What the command line asks for; `flags` has the settings that were typed, by name, relative to `directory`."""

    directory: Path
    config: Path | None
    check: bool
    print_config: bool
    flags: dict[str, Any]

    def load(self) -> LoadedConfig:
        """Read the configuration; at a reload again. Raises `ConfigError`."""
        return load_config(self.config, os.environ, self.flags, cwd=self.directory)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: the words after the command's name; None = those of this process.

    Returns the exit code: 0 stopped or answered, 1 crash, 2 usage or configuration, 3 the application failed to
    start.
    """
    open_standard_streams()
    try:
        return _answer(arguments)
    except KeyboardInterrupt:
        return 0
    finally:
        _flush_standard_streams()


def _answer(arguments: Sequence[str] | None) -> int:
    try:
        request = build_command().main(arguments, prog_name="trioserve", standalone_mode=False)
        if not isinstance(request, Request):  # --help and --version have answered already
            return int(request)
        loaded = request.load()
    except click.ClickException as error:
        return _refuse(f"{error.format_message()} Try: trioserve --help")
    except click.Abort:
        return 0
    except ConfigError as error:
        return _refuse(str(error))
    if request.print_config:
        return _print_config(loaded)
    if loaded.config.app is None:
        return _refuse("no application: name it, as in `trioserve main:app`, or set app in the configuration")
    return _check(loaded) if request.check else _serve(loaded, request.load)


def _check(loaded: LoadedConfig) -> int:
    from trioserve.process import worker

    try:
        return worker.check(loaded)
    except ConfigError as error:
        return _refuse(str(error))


def _serve(loaded: LoadedConfig, load: Callable[[], LoadedConfig]) -> int:
    from trioserve.process.sockets import Activation
    from trioserve.server.listeners import BindError

    activation = Activation.take(os.environ, os.getpid())
    try:
        if loaded.config.process.workers == 0:
            from trioserve.process import worker

            return worker.run(activation.place(loaded))
        from trioserve.process.start import supervise

        return supervise(activation.place(loaded), lambda: activation.place(load()))
    except (ConfigError, BindError) as error:
        return _refuse(str(error))


def _refuse(reason: str) -> int:
    _write(sys.stderr, f"trioserve: error: {' '.join(reason.split())}\n")
    return USAGE_ERROR


def _print_config(loaded: LoadedConfig) -> int:
    origin = loaded.source or "no file"
    _write(sys.stdout, f"# In force in trioserve {__version__}, from {origin}\n{dump_toml(loaded.config)}")
    return 0


# -- options -------------------------------------------------------------------------------------------------------


def build_command() -> click.Command:
    """Make the command; its result is a `Request`."""
    own = [
        click.Option(
            ["-c", "--config"],
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="TOML file; without it trioserve.toml or [tool.trioserve] of pyproject.toml, if there is one.",
        ),
        click.Option(
            ["--check"], is_flag=True, help="Load the configuration and the application; exit 0, 2 or 3."
        ),
        click.Option(["--print-config"], is_flag=True, help="Print the settings in force as TOML."),
    ]
    return _Command(
        "trioserve",
        params=[*own, *[_build_parameter(setting) for setting in settings()]],
        callback=_read_request,
        help="Serve the ASGI or WSGI application APP, which is module:attribute.",
        epilog=_EPILOG,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _HELP_WIDTH},
    )


class _Command(click.Command):
    """A command whose help has a section for each table of the configuration."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), _version_option()]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        every = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        general = [each for each in every if not isinstance(each, _SettingOption)]
        _write_section(formatter, "Options", general, ctx)
        options = [each for each in self.params if isinstance(each, _SettingOption)]
        for table, members in groupby(options, key=lambda each: each.setting.table):
            _write_section(formatter, _title(table), list(members), ctx)


class _SettingOption(click.Option):
    """The option of one setting."""

    def __init__(self, setting: Setting, declarations: list[str], **options: Any) -> None:
        super().__init__(declarations, help=_describe(setting), default=None, **options)
        self.setting = setting


def _build_parameter(setting: Setting) -> click.Parameter:
    if setting.flag is None:
        return click.Argument([setting.name], required=False, metavar="[APP]")
    declarations = [setting.name, *setting.other_flags, setting.flag]
    if setting.is_switch:
        declarations[-1] += f"/{setting.negative_flag}"
        return _SettingOption(setting, declarations)
    metavar = "|".join(setting.choices) if setting.choices else setting.metavar
    return _SettingOption(setting, declarations, metavar=metavar, multiple=setting.repeatable, type=str)


def _version_option() -> click.Option:
    def show(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted and not context.resilient_parsing:
            click.echo(f"trioserve {__version__}")
            context.exit()

    return click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=show,
        help="Print the version.",
    )


def _read_request(config: Path | None, check: bool, print_config: bool, **values: Any) -> Request:
    context = click.get_current_context()
    typed = {
        name: value
        for name, value in values.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    try:
        directory = Path.cwd()
    except FileNotFoundError:
        raise ConfigError("", None, "the working directory does not exist any more") from None
    return Request(directory, config, check, print_config, typed)


# -- help ----------------------------------------------------------------------------------------------------------


def _title(table: str) -> str:
    if not table:
        return "Application and addresses"
    return f"[{table}] {(GROUPS[table].__doc__ or '').strip().splitlines()[0].rstrip('.')}"


def _write_section(
    formatter: click.HelpFormatter, title: str, options: Sequence[click.Parameter], context: click.Context
) -> None:
    records = [record for each in options if (record := each.get_help_record(context))]
    with formatter.section(title):
        formatter.write_dl(records)


def _describe(setting: Setting) -> str:
    notes = ["repeatable" if setting.repeatable else "", setting.unit or ""]
    if setting.default not in (None, "", ()):
        notes.append(f"default: {setting.kind.render(setting.default)}")
    note = "; ".join(filter(None, notes))
    return f"{setting.help} [{note}]" if note else setting.help


# -- standard streams ----------------------------------------------------------------------------------------------


def _write(stream: Any, text: str) -> None:
    """Write to a standard stream that may be closed, or that nobody reads."""
    try:
        if stream is not None:
            stream.write(text)
            stream.flush()
    except OSError:
        pass


def _flush_standard_streams() -> None:
    """Keep the interpreter from changing our exit code because a stream's reader has gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
