"""Pages of one html file each: the templates and the extra that they need."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files


def need_extra(page: str) -> None:
    """Raises ImportError if matplotlib or Jinja2 is missing. page : what was asked for."""
    missing = []
    for module, name in (("matplotlib", "matplotlib"), ("jinja2", "Jinja2")):
        try:
            import_module(module)
        except ImportError:
            missing.append(name)
    if missing:
        raise ImportError(
            f"{page} needs matplotlib and Jinja2, but {' and '.join(missing)} "
            f'cannot be imported: pip install "softmix[report]"'
        )


def render(template: str, context: dict[str, object]) -> str:
    """A page by a template of this folder. A template may include another, such as the style sheet."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: files("softmix.evaluate").joinpath(name).read_text(encoding="utf-8")),
    )
    return environment.get_template(template).render(context)
