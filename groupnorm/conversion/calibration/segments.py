"""Teacher and student go through a network together, batch by batch, from norm to norm.

Two ways. Where the network can be followed by `torch.fx`, each batch's values wait in front of the
present norm (`Segments`): every layer runs once in the teacher and about twice in the student,
however many norms there are. Otherwise the network runs from the beginning for each norm
(`Sweeps`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map

from groupnorm.conversion.calibration.batches import Batches, Call, call_of
from groupnorm.conversion.calibration.order import readers
from groupnorm.conversion.calibration.states import States, bytes_of
from groupnorm.conversion.calibration.tape import Holder, Tape, Untraceable, copied_tensor


class Point(NamedTuple):
    """Where a norm stands.

    Attributes:
        norm: its name below the `Holder`.
        producer: name of the layer that makes its input; None where none can be changed.
        why_none: why there is none.
    """

    norm: str
    producer: str | None
    why_none: str = ""


class Seen(NamedTuple):
    """What one run of a norm is about, on one batch.

    Attributes:
        held_out: whether nothing is fitted to it.
        teacher: input of the teacher's norm.
        student: input of the student's norm, or that of the layer that makes it.
    """

    held_out: bool
    teacher: Tensor
    student: Tensor


class Walk(Protocol):
    """Both networks on all batches, up to one norm after another.

    Attributes:
        batches: the data.
        order: the points in the order in which their norms run.
    """

    batches: Batches
    order: list[Point]

    def linear(self, point: Point) -> bool:
        """Whether a norm's output is added to others with no activation between, where known."""

    def readers(self, point: Point) -> list[_ConvNd]:
        """The student's convolutions that alone take a norm's output, where known; see `order`."""

    def go_to(self, point: Point) -> None:
        """Go on to a norm, which comes later than the present one."""

    def producer_inputs(self) -> Iterator[Seen]:
        """The student's inputs of the layer in front of the present norm."""

    def norm_inputs(self) -> Iterator[Seen]:
        """The student's inputs of the present norm."""


class Segments:
    """The walk by pieces of the network.

    Args:
        teacher: and student, the networks.
        student: see `teacher`.
        batches: the data.
        points: of all norms, each of which runs.
        states: where the values wait.
        norms: all that are to be converted, whether they run or not, for what runs may depend on
            the values of modules that have them.

    Attributes:
        order: the points in the order in which their norms run. A producer that something stands
            between is left out.

    Raises:
        Untraceable: the network cannot be run in pieces, or a norm runs more than once.
    """

    def __init__(
        self,
        teacher: Holder,
        student: Holder,
        batches: Batches,
        points: Sequence[Point],
        states: States,
        norms: Sequence[nn.Module],
    ) -> None:
        first = _call(teacher.model, batches, 0)
        _check_forward(teacher.model, batches, [teacher.get_submodule(p.norm) for p in points])
        if not all(_call(teacher.model, batches, i).like(first) for i in range(1, len(batches))):
            raise Untraceable("the batches call it in different ways")
        self._teacher, self._student = teacher, student
        teacher.call = student.call = first
        self._tape = Tape(teacher, norms)
        self.order = self._ordered(points)
        for root, stop_of in ((teacher, self._norm_node), (student, self._student_node)):
            stops = [self._tape.at[stop_of(point)] for point in self.order]
            self._tape.check(root, first.tensors, stops)
        self.batches, self._states = batches, states
        self._at_teacher = self._at_student = 0
        self._point: Point | None = None
        for i in range(len(batches)):
            tensors = _call(teacher.model, batches, i).tensors
            for who in ("teacher", "student"):
                states.put((who, i), self._tape.start(tensors))

    def linear(self, point: Point) -> bool:
        """See `Walk`."""
        norm = self._teacher.get_submodule(point.norm)
        if list(norm.children()) or getattr(norm, "activation", None) is not None:
            return False
        users = self._norm_node(point).users
        return not users or any(_is_sum(user) for user in users)

    def readers(self, point: Point) -> list[_ConvNd]:
        """See `Walk`."""
        return readers(self._norm_node(point), self._student, self._tape.calls_of)

    def go_to(self, point: Point) -> None:
        """See `Walk`."""
        self._point = point
        to_teacher = self._tape.at[self._norm_node(point)]
        to_student = self._tape.at[self._student_node(point)]
        half = False
        for i in range(len(self.batches)):
            values = [
                self._tape.run(self._teacher, self._states.take(("teacher", i)),
                               self._at_teacher, to_teacher),
                self._tape.run(self._student, self._states.take(("student", i)),
                               self._at_student, to_student),
            ]  # fmt: skip
            if i == 0:
                half = not self._states.fits(bytes_of(values) * len(self.batches))
            for who, value in zip(("teacher", "student"), values, strict=True):
                self._states.put((who, i), value, half=half)
        self._at_teacher, self._at_student = to_teacher, to_student

    def producer_inputs(self) -> Iterator[Seen]:
        """See `Walk`."""
        assert self._point is not None
        producer, norm = self._producer_node(self._point), self._norm_node(self._point)
        for i in range(len(self.batches)):
            yield Seen(
                self.batches.held_out(i),
                self._states.get(("teacher", i))[_input_of(norm).name],
                self._states.get(("student", i))[_input_of(producer).name],
            )

    def norm_inputs(self) -> Iterator[Seen]:
        """See `Walk`."""
        assert self._point is not None
        node = _input_of(self._norm_node(self._point))
        stop = self._tape.at[self._norm_node(self._point)]
        for i in range(len(self.batches)):
            values = self._states.get(("student", i))
            if stop > self._at_student + 1:  # operations behind the producer may work in place
                values = tree_map(copied_tensor, values)
            values = self._tape.run(self._student, values, self._at_student, stop)
            yield Seen(
                self.batches.held_out(i),
                self._states.get(("teacher", i))[node.name],
                values[node.name],
            )

    def _ordered(self, points: Sequence[Point]) -> list[Point]:
        for point in points:
            if len(self._tape.calls_of(point.norm)) != 1:
                raise Untraceable(f"{point.norm} does not run once")
            if point.producer is not None:
                norm, producer = self._norm_node(point), self._producer_node(point)
                if _input_of(norm) is producer:
                    self._tape.move(producer, norm)
        ordered = sorted(points, key=lambda point: self._tape.at[self._norm_node(point)])
        position = -1
        for i, point in enumerate(ordered):
            has_producer = point.producer is not None
            if has_producer and self._tape.at[self._producer_node(point)] < position:
                producer = str(point.producer).removeprefix("model.")
                why = f"another norm runs between it and {producer}"
                ordered[i] = Point(point.norm, None, why)
            position = self._tape.at[self._norm_node(point)]
        return ordered

    def _norm_node(self, point: Point) -> Any:
        return self._tape.calls_of(point.norm)[0]

    def _student_node(self, point: Point) -> Any:
        """The operation before which the student's values wait."""
        return self._norm_node(point) if point.producer is None else self._producer_node(point)

    def _producer_node(self, point: Point) -> Any:
        found = self._tape.calls_of(str(point.producer))
        if len(found) != 1:
            raise Untraceable(f"{point.producer} does not run once")
        return found[0]


class _Stop(BaseException):  # passes by the handlers of whoever calls the network
    """The present norm has run."""


class Sweeps:
    """The walk that runs the networks from the beginning for each norm.

    Args:
        teacher: and student, the networks.
        student: see `teacher`.
        batches: the data.
        points: of norms.

    Attributes:
        order: the points in the order in which their norms run first, of those that run both on
            what is fitted to and on what is held out.
    """

    def __init__(
        self, teacher: Holder, student: Holder, batches: Batches, points: Sequence[Point]
    ) -> None:
        self._roots = {"teacher": teacher, "student": student}
        self.batches = batches
        modules = {teacher.get_submodule(point.norm): point for point in points}
        self._uses = [self._runs(modules, i) for i in range(len(batches))]
        order: list[Point] = []
        for uses in self._uses:
            place = 0
            for point in uses:
                if point not in order:
                    order.insert(place, point)
                place = order.index(point) + 1
        self.order = [
            point
            for point in order
            if len({batches.held_out(i) for i, uses in enumerate(self._uses) if uses[point]}) == 2
        ]

    def _runs(self, modules: Mapping[nn.Module, Point], index: int) -> Counter[Point]:
        """How often each norm runs on a batch, in the order in which they run first."""
        ran: Counter[Point] = Counter()

        def note(module: nn.Module, _: Any) -> None:
            ran[modules[module]] += 1

        handles = [module.register_forward_pre_hook(note) for module in modules]
        try:
            self.batches.run(self._roots["teacher"].model, index)
        finally:
            _remove(handles)
        return ran

    def linear(self, point: Point) -> bool:
        """See `Walk`; what follows a norm is not known."""
        return False

    def readers(self, point: Point) -> list[_ConvNd]:
        """See `Walk`; what follows a norm is not known."""
        return []

    def go_to(self, point: Point) -> None:
        """See `Walk`."""
        self._point = point

    def producer_inputs(self) -> Iterator[Seen]:
        """See `Walk`."""
        assert self._point.producer is not None
        return self._pairs(self._point.producer)

    def norm_inputs(self) -> Iterator[Seen]:
        """See `Walk`."""
        return self._pairs(self._point.norm)

    def _pairs(self, of_student: str) -> Iterator[Seen]:
        for i, runs in enumerate(self._uses):
            uses = runs[self._point]
            if not uses:
                continue
            teacher = self._inputs("teacher", self._point.norm, i, uses)
            student = self._inputs("student", of_student, i, uses)
            if len(student) != len(teacher):
                name = self._point.norm.removeprefix("model.")
                raise ValueError(
                    f"{name} runs {len(teacher)} times on a batch in the network before, and "
                    f"{len(student)} times in the one with group norms: what runs depends on "
                    "values that these change. Leave it out with `only`"
                )
            for t, s in zip(teacher, student, strict=True):
                yield Seen(self.batches.held_out(i), t, s)

    def _inputs(self, who: str, name: str, index: int, uses: int) -> list[Tensor]:
        """The inputs of a module, at most as often as the norm runs in the teacher."""
        root = self._roots[who]
        found: list[Tensor] = []

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
            found.append(given.clone())
            if len(found) == uses:
                raise _Stop

        handle = root.get_submodule(name).register_forward_pre_hook(note, with_kwargs=True)
        try:
            self.batches.run(root.model, index)
        except _Stop:
            pass
        finally:
            handle.remove()
        return found


def _call(model: nn.Module, batches: Batches, index: int) -> Call:
    call = call_of(model, lambda network: batches.run(network, index))
    if call is None:
        raise Untraceable("the batches do not call it as a whole")
    return call


def _check_forward(model: nn.Module, batches: Batches, norms: Sequence[nn.Module]) -> None:
    """Check that what the caller does with a batch is one call of the network, in its precision.

    Raises:
        Untraceable: it is not.
    """
    if batches.direct:
        return
    kind = batches.device.type
    cast = torch.is_autocast_enabled(kind)
    for i in range(len(batches)):
        ran: Counter[nn.Module] = Counter()
        casts: set[bool] = set()

        def note(module: nn.Module, _: Any, ran: Any = ran, casts: Any = casts) -> None:
            ran[module] += 1
            casts.add(torch.is_autocast_enabled(kind))

        handles = [module.register_forward_pre_hook(note) for module in {model, *norms}]
        try:
            batches.run(model, i)
        finally:
            _remove(handles)
        if set(ran.values()) != {1}:
            raise Untraceable("forward does more with a batch than call the network once")
        if casts != {cast}:
            raise Untraceable("forward runs it under autocast")


def _input_of(node: Any) -> Any:
    return (*node.args, *node.kwargs.values())[0]


def _is_sum(node: Any) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name in ("add", "add_", "iadd", "cat")


def _remove(handles: Sequence[Any]) -> None:
    for handle in handles:
        handle.remove()
