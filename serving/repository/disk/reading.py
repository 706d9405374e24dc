"""How the settings of a model come about: from the file beside its versions, in whichever form that is. Blocking.

The forms themselves belong to protocols, which hand their readers in. Of the settings, what the server's operator wants
of a model counts first, then what its file says, then the operator's defaults.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

from serving.core.spec import SPEC_FILE, ModelSpec, SpecError, parse_spec
from serving.repository.disk.layout import FoundModel


@dataclass(frozen=True)
class Read:
    """What a file says, and a line for each thing that its author should know."""

    spec: ModelSpec
    warnings: tuple[str, ...] = ()


# Of a text, the file's name for messages, and what the model may be called in it. Pure. Raises SpecError.
Reader = Callable[[str, str, Set[str]], Read]


@dataclass(frozen=True)
class Reading:
    """
    Attributes:
        readers: of files in other forms than that of `model.yaml`, by name.
        defaults: what holds where nobody says anything.
        wanted: by model; of these settings those that were set count, whatever its file says.
    """

    readers: Mapping[str, Reader] = field(default_factory=dict)
    defaults: ModelSpec = field(default_factory=ModelSpec)
    wanted: Mapping[str, ModelSpec] = field(default_factory=dict)

    def settings(self, model: FoundModel) -> Read | SpecError:
        """The model's settings, or what is wrong with its file."""
        try:
            read = self._read(model)
        except SpecError as error:
            return error
        except (OSError, UnicodeDecodeError) as error:
            return SpecError(f"{model.spec_file}: cannot be read: {error}")
        spec = over(self.defaults, read.spec)
        if (wanted := self.wanted.get(model.name)) is not None:
            spec = over(spec, wanted)
        return Read(spec, read.warnings)

    def _read(self, model: FoundModel) -> Read:
        file = model.spec_file
        if file is None:
            return Read(ModelSpec())
        reader = self.readers.get(file.name)
        if reader is not None:
            names = frozenset({model.name, model.path.name, model.path.resolve().name})
            return reader(file.read_text(), str(file), names)
        if file.name != SPEC_FILE:
            return Read(ModelSpec(), (f"{file}: nobody here can read it",))
        warnings = (
            () if model.passed_over is None else (f"{model.passed_over}: not read, since there is a {SPEC_FILE}",)
        )
        return Read(parse_spec(file.read_text(), str(file)), warnings)


def over(below: ModelSpec, spec: ModelSpec) -> ModelSpec:
    """`below`, with what was set in `spec`."""
    return below.model_copy(update={name: getattr(spec, name) for name in spec.model_fields_set})
