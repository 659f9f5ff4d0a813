"""Options out of configuration classes: the help of each is what the class's docstring says of it."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

_PREPOSITIONS = ("of ", "with ", "for ", "between ")


def registry(*classes: type) -> ConstructorRegistry:
    """What tells tyro how options are made of these dataclasses.

    Of others, and of those whose fields each have a docstring of their own, tyro makes them.
    """
    made = ConstructorRegistry()

    @made.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        settings: Any = info.type
        if settings not in classes or not (said := phrases(settings)):
            return None
        types = typing.get_type_hints(settings, include_extras=True)
        given = info.default if isinstance(info.default, settings) else settings()
        # A flag that is on by default could only be turned off, by an option whose help says what it is for.
        switch = Annotated[bool, tyro.conf.FlagConversionOff]
        return StructConstructorSpec(
            instantiate=settings,
            fields=tuple(
                StructFieldSpec(
                    f.name,
                    switch if types[f.name] is bool else types[f.name],
                    getattr(given, f.name),
                    helptext=said.get(f.name),
                )
                for f in dataclasses.fields(settings)
            ),
        )

    return made


def phrases(settings: type) -> dict[str, str]:
    """What a docstring such as 'Sizes. latent: values of the state. width, depth: of the predictor.' says of fields.

    A field that has no phrase of its own gets the one that names it in backticks.
    """
    names = [f.name for f in dataclasses.fields(settings)]
    text = " ".join(inspect.cleandoc(settings.__doc__ or "").split())
    parts = re.split(r"(?:^|(?<=\. ))(\w+(?:, \w+)*): ", text)
    found: dict[str, str] = {}
    for heads, phrase in zip(parts[1::2], parts[2::2], strict=True):
        mentioned = [name for name in names if f"`{name}`" in phrase]
        for name in heads.split(", "):
            said = f"{name} {phrase}" if phrase.startswith(_PREPOSITIONS) else phrase
            said = said[:1].upper() + said[1:].replace("`", "").strip()
            found |= {name: said} | {other: said for other in mentioned if other not in found}
    return {name: found[name] for name in names if name in found}
