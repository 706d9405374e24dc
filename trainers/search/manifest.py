"""Documents as YAML that every parser reads alike, those of Kubernetes among them. Pure."""

from typing import Any

import yaml


def as_yaml(*documents: dict[str, Any]) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=110)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.Node:
        """PyYAML takes 3e-05 for a word and leaves it bare; others take it for a number."""
        style = "|" if "\n" in data else "'" if _number(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_Dumper.add_representer(str, _Dumper.text)
