"""What operators do with a model's versions: labels, shares of the traffic, promotion and rollback.

The first half is pure: from how things stand to how they shall stand. `Rollouts` does it, on the event loop: a version
that is needed is loaded first, what changed is kept on disk, and then requests go by it. A change that is answered
survives the process. What the judge decides counts at once and is kept on disk after that, for every request counts.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from serving.core.errors import ErrorKind, ServingError, invalid
from serving.core.traffic import Traffic
from serving.repository.control.events import History, Kind
from serving.repository.control.orders import Orders, Rollout
from serving.repository.jobs import Jobs
from serving.repository.model import Model
from serving.repository.routing.judge import Verdict
from serving.repository.routing.route import CANARY, STABLE, number_of, numbers_of

log = logging.getLogger(__name__)

_BEFORE = 20  # versions to go back to that are remembered
_MAX_LABEL = 100  # characters
_LOOK_AGAIN_S = 0.1
_WRITING_LIMIT_S = 60.0  # how long a version may still be written when it is asked for


@dataclass(frozen=True)
class Standing:
    """How a model's requests are shared out.

    Attributes:
        rollout: what operators have set, beside what the model's settings say.
        labels: versions by label, of both.
        traffic: the one that counts.
        default: the version that stands for the model; None: none is ready.
    """

    rollout: Rollout
    labels: dict[str, int]
    traffic: Traffic | None
    default: int | None

    @property
    def sharing(self) -> tuple[str, ...]:
        """The labels and numbers that get requests or copies."""
        traffic = self.traffic or Traffic()
        weighted = (name for name, weight in traffic.weights.items() if weight > 0)
        return *weighted, *([traffic.shadow.to] if traffic.shadow else [])

    @property
    def trials(self) -> dict[str, int]:
        """Those of them that are not the default version, and their numbers."""
        numbers = {name: number_of(name, self.labels) for name in self.sharing}
        return {name: number for name, number in numbers.items() if number is not None and number != self.default}


def labelled(now: Standing, label: str, number: int | None) -> Rollout:
    """`number` None: the label is taken away."""
    return replace(now.rollout, labels={**now.rollout.labels, label: number})


def promoted(now: Standing, number: int) -> Rollout:
    """A version becomes the stable one. What was on trial ends."""
    before = tuple(n for n in now.rollout.before if n != number)
    if now.default not in (None, number):
        before = (*(n for n in before if n != now.default), now.default)
    return _settled(now, number, before[-_BEFORE:])


def restored(now: Standing, number: int) -> Rollout:
    """An earlier version becomes the stable one again. It is forgotten what came after it, and what was on trial."""
    before = now.rollout.before
    return _settled(now, number, before[: before.index(number)] if number in before else before)


def _settled(now: Standing, stable: int, before: tuple[int, ...]) -> Rollout:
    """One version takes all, and none that appears later takes anything."""
    labels = {**now.rollout.labels, STABLE: stable}
    if CANARY in now.labels:
        labels[CANARY] = None
    old = now.traffic or Traffic()
    return Rollout(labels, Traffic(weights={STABLE: 100}, sticky=old.sticky, limits=old.limits), before)


def without(now: Standing, number: int) -> Rollout:
    """A version gets neither requests nor copies any more, unless they name it."""
    traffic = now.traffic or Traffic()
    weights = {name: weight for name, weight in traffic.weights.items() if number_of(name, now.labels) != number}
    labels = dict(now.rollout.labels)
    if now.labels.get(CANARY) == number:
        labels[CANARY] = None
    others = any(weight > 0 and number_of(name, now.labels) is not None for name, weight in weights.items())
    if not others and now.default is not None:  # or the highest version would take all, which may be this one
        labels[STABLE], weights = now.default, {STABLE: 100}
    shadow = traffic.shadow if traffic.shadow and number_of(traffic.shadow.to, now.labels) != number else None
    left = Traffic(weights=weights, sticky=traffic.sticky, shadow=shadow, limits=traffic.limits)
    return replace(now.rollout, labels=labels, traffic=left)


def described(traffic: Traffic) -> str:
    """In words, for the history."""
    parts = [f"{name} {weight:g}" for name, weight in traffic.weights.items()] or ["all to the highest version"]
    if traffic.sticky:
        parts.append(f"sticky by {traffic.sticky}")
    if traffic.shadow:
        parts.append(f"copies of {traffic.shadow.percent:g} % to {traffic.shadow.to}")
    return ", ".join(parts)


class Rollouts:
    """
    Args:
        models: by name.
        wake: loads a model that sleeps.
        look: reads a model's directory now and acts on it.
        loaded: returns when none of a model's versions loads.
        save: keeps a rollout on disk; raises ServingError if that cannot be had.
        act: does what follows for a model from the orders as they are now, and publishes it.
    """

    def __init__(
        self,
        orders: Orders,
        history: History,
        jobs: Jobs,
        *,
        models: Callable[[str], Model | None],
        wake: Callable[[str], Awaitable[None]],
        look: Callable[[str], Awaitable[None]],
        loaded: Callable[[str], Awaitable[None]],
        save: Callable[[str, Rollout], Awaitable[None]],
        act: Callable[[Model], None],
    ) -> None:
        self._orders = orders
        self._history = history
        self._jobs = jobs
        self._models = models
        self._wake = wake
        self._look = look
        self._loaded = loaded
        self._save = save
        self._act = act

    async def label(self, name: str, label: str, number: int | None) -> None:
        """Gives a label to a version that is ready, loading it if need be; None takes the label away.

        Raises:
            ServingError: INVALID: not a label. NOT_FOUND: no such model, version or label. PRECONDITION: the version
                cannot be loaded, or requests go by the label that shall be taken away.
        """
        if not (0 < len(label) <= _MAX_LABEL and label.isprintable()) or label.isdigit():
            raise invalid(f"'{label[:_MAX_LABEL]}' is not a label: expected a name, and no number")
        now = await self._awake(name)
        if number is None:
            if label not in now.labels:
                raise _not_found(name, f"no label '{label}'")
            if label in now.sharing:
                raise _precondition(name, f"requests go by the label '{label}': share them out in another way first")
        async with self._ready(name, [number] if number is not None else []):
            await self._change(name, lambda now: labelled(now, label, number))
        what = f"'{label}'" if number is not None else f"'{label}' is taken away from version {now.labels[label]}"
        self._history.add(Kind.LABELLED, name, number, what)

    async def share(self, name: str, traffic: Traffic | None) -> None:
        """Shares requests out as `traffic` says; None: as the model's settings say.

        Raises:
            ServingError: NOT_FOUND: no such model, version or label. PRECONDITION: a version cannot be loaded.
        """
        now = await self._awake(name)
        if traffic is None:
            numbers = numbers_of(self._model(name).spec.traffic, now.labels)
        else:
            numbers = {_named(name, one, now) for one in traffic.names}
        async with self._ready(name, numbers):
            await self._change(name, lambda now: replace(now.rollout, traffic=traffic))
        self._history.add(Kind.TRAFFIC, name, None, described(traffic) if traffic else "as the settings say")

    async def promote(self, name: str, version: str = "") -> None:
        """Makes a version the stable one, which takes all requests that name none.

        Args:
            version: a number or a label; by default the canary, or else the highest version that is ready.

        Raises:
            ServingError: NOT_FOUND: no such model or version. PRECONDITION: it cannot be loaded, or there is none that
                could be promoted.
        """
        now = await self._awake(name)
        if version:
            number = _named(name, version, now)
        elif CANARY in now.labels:
            number = now.labels[CANARY]
        else:
            number = max(self._model(name).live, default=0)
            if not number:
                raise _precondition(name, "no version is ready")
            if number == now.labels.get(STABLE) and now.sharing == (STABLE,):
                raise _precondition(name, f"version {number} is stable already, and no higher one is ready")
        async with self._ready(name, [number]):
            before = await self._change(name, lambda now: promoted(now, number))
        old = before.default
        self._history.add(Kind.PROMOTED, name, number, f"stable was {old}" if old not in (None, number) else "")

    async def rollback(self, name: str, version: str = "") -> None:
        """Ends what is on trial, or makes an earlier version the stable one.

        Args:
            version: a number or a label. By default, if there is a canary or a shadow, that ends and the stable version
                takes all; otherwise the one that was stable before, or else the next lower one.

        Raises:
            ServingError: NOT_FOUND: no such model or version. PRECONDITION: it cannot be loaded, or there is none to go
                back to.
        """
        now = await self._awake(name)
        if version:
            number = _named(name, version, now)
        elif now.trials and now.default is not None:
            number = now.default
        else:
            number = self._earlier(name, now)
        async with self._ready(name, [number]):
            before = await self._change(name, lambda now: restored(now, number))
        lost = next((trial for trial in before.trials.values() if trial != number), before.default)
        self._history.add(Kind.ROLLED_BACK, name, lost, f"by hand: version {number} takes all requests")

    def condemn(self, name: str, verdict: Verdict) -> None:
        """What the judge has found: the version gets no requests any more. Not within the request that told, though."""
        asyncio.get_running_loop().call_soon(self._condemn, name, verdict)

    def _condemn(self, name: str, verdict: Verdict) -> None:
        model = self._models(name)
        if model is None:
            return
        rollout = without(_standing(model), verdict.version)
        self._orders.roll(name, rollout)
        self._history.add(Kind.ROLLED_BACK, name, verdict.version, verdict.reason)
        self._act(model)
        self._jobs.start(f"keeping the rollback of '{name}'", self._keep(name, rollout))

    async def _keep(self, name: str, rollout: Rollout) -> None:
        try:
            await self._save(name, rollout)
        except ServingError as error:
            log.error("the rollback of '%s' will not outlive this server: %s", name, error.message)

    async def _awake(self, name: str) -> Standing:
        """How things stand, once the model is awake."""
        if self._model(name).asleep:
            await self._wake(name)
        return self._standing(name)

    async def _change(self, name: str, change: Callable[[Standing], Rollout]) -> Standing:
        """Keeps the change on disk, and then goes by it. If the judge was faster, it is made to what that left.

        Returns:
            How things stood before.
        """
        while True:
            before = self._standing(name)
            rollout = change(before)
            await self._save(name, rollout)
            if self._model(name).rollout is before.rollout:
                break
        self._orders.roll(name, rollout)
        self._act(self._model(name))
        return before

    @asynccontextmanager
    async def _ready(self, name: str, numbers: Collection[int]) -> AsyncIterator[None]:
        """Inside, these versions are ready, whatever else is decided about them meanwhile.

        Raises:
            ServingError: NOT_FOUND or PRECONDITION.
        """
        model = self._model(name)
        if model.order.kept_out:
            raise _precondition(name, "it is unloaded; load it first")
        model.needed += Counter(numbers)
        try:
            missing = [number for number in numbers if number not in model.live]
            if missing:
                await self._bring_up(name, missing)
            yield
        finally:
            model.needed -= Counter(numbers)
            if self._models(name) is model:
                self._act(model)

    async def _bring_up(self, name: str, numbers: Collection[int]) -> None:
        """Reads the model's directory, and waits until these versions are written and loaded."""
        model = self._model(name)
        for number in numbers:
            model.forget_failed(number)
        limit = time.monotonic() + _WRITING_LIMIT_S
        while True:
            await self._look(name)
            await self._loaded(name)
            written = model.unsettled.isdisjoint(n for n in numbers if n not in model.live)
            if written or time.monotonic() >= limit:
                break
            await asyncio.sleep(_LOOK_AGAIN_S)
        for number in numbers:
            if number in model.live:
                continue
            if number in model.failed:
                raise _precondition(name, f"version {number} cannot be loaded: {model.failed[number].reason}")
            if number in model.unsettled:
                raise _precondition(name, f"the files of version {number} are still being written")
            if model.spec_error:
                raise _precondition(name, model.spec_error)
            raise _not_found(name, f"version {number} is not found")

    def _earlier(self, name: str, now: Standing) -> int:
        """The version that a rollback goes to by itself: of those that are there, the one that was stable last, or the
        next lower one."""
        model = self._model(name)
        there = {*model.found.versions, *model.live}
        before = [number for number in now.rollout.before if number in there and number != now.default]
        if before:
            return before[-1]
        lower = [number for number in there if now.default is not None and number < now.default]
        if not lower:
            raise _precondition(name, f"there is no version before {now.default}" if now.default else "nothing serves")
        return max(lower)

    def _model(self, name: str) -> Model:
        model = self._models(name)
        if model is None:
            raise ServingError(ErrorKind.NOT_FOUND, f"unknown model '{name[:200]}'")
        return model

    def _standing(self, name: str) -> Standing:
        return _standing(self._model(name))


def _standing(model: Model) -> Standing:
    default = model.default
    return Standing(model.rollout, model.labels, model.traffic, None if default is None else default.number)


def _named(name: str, version: str, now: Standing) -> int:
    number = number_of(version, now.labels)
    if number is None:
        raise _not_found(name, f"no label '{version[:_MAX_LABEL]}'; there are {', '.join(now.labels) or 'none'}")
    return number


def _not_found(name: str, why: str) -> ServingError:
    return ServingError(ErrorKind.NOT_FOUND, f"model '{name}': {why}")


def _precondition(name: str, why: str) -> ServingError:
    return ServingError(ErrorKind.PRECONDITION, f"model '{name}': {why}")
