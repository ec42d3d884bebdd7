"""The parameters and the answers of the HTTP API, for validation and OpenAPI."""

from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from facewire.events import MAX_INT, PERSON_TYPES
from facewire.moments import parse_moment
from facewire.topics import check_device
from facewire_platform.filter import Filter
from facewire_platform.history.events import Place
from facewire_platform.history.periods import HOUR
from facewire_system.clock import now_ms

#: Most rows in one answer.
MAX_ROWS: Final = 1_000
#: Most days of hours in one answer: a month.
MAX_DAYS: Final = 31
#: `31d` ago was a moment before now; so much more may be asked, ms.
LEEWAY: Final = 60_000
DAY: Final = 24 * HOUR
#: Fields of an item of quarantine; the API does not give its bytes.
QUARANTINE: Final = ("id", "topic", "reason", "size_bytes", "first_at", "last_at", "times", "seq")


def _moment(value: object) -> int:
    return parse_moment(str(value), now_ms())


def _text(value: str) -> str:
    if "\x00" in value:
        raise ValueError("contains NUL, which no stored text does")
    return value


def _schema(description: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": description, "examples": [example]})


Moment = Annotated[int, BeforeValidator(_moment), _schema("10m (ago), an ISO date or time, or ms since 1970 UTC.", "2h")]
After = Annotated[str, AfterValidator(lambda text: str(Place.parse(text))), Field(description="`next` of the previous page.")]
Device = Annotated[str, AfterValidator(check_device)]
Text = Annotated[str, AfterValidator(_text), Field(max_length=1_000)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ListForm(_Form):
    """The length of a list."""

    limit: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 100


class DevicesForm(ListForm):
    """Which devices."""

    after: Device | None = None


class GapsForm(ListForm):
    """Which gaps."""

    device: Device | None = None


class _Filtered(_Form):
    """Which events; the filters of `facewire events`."""

    since: Moment | None = None
    until: Moment | None = None
    device: Device | None = None
    person: Text | None = None
    person_type: Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)] | None = None
    group: Text | None = None
    min_score: Annotated[float, Field(allow_inf_nan=False)] | None = None

    @property
    def filter(self) -> Filter:
        return Filter(self.since, self.until, self.device, self.person, self.person_type, self.group, self.min_score)


class EventsForm(_Filtered, ListForm):
    """Which events, and after which place."""

    newest_first: bool = False
    after: After | None = None

    @property
    def place(self) -> Place | None:
        return None if self.after is None else Place.parse(self.after)


class HourlyForm(_Filtered):
    """Which events of which hours: the last 24 hours by default."""

    @property
    def filter(self) -> Filter:
        """With both ends given."""
        until = self.until if self.until is not None else _moment("0s") + 1
        since = self.since if self.since is not None else until - 24 * HOUR
        return Filter(since, until, self.device, self.person, self.person_type, self.group, self.min_score)

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        asked = self.filter
        span = (asked.until or 0) - (asked.since or 0)
        if span < 0:
            raise ValueError(f"since is {-span / HOUR:.2f} hours after until")
        if span > MAX_DAYS * DAY + LEEWAY:
            raise ValueError(f"from since to until are {span / DAY:.2f} days, at most {MAX_DAYS} are answered: ask for one month at a time")
        return self


class Error(BaseModel):
    """The error, in one sentence."""

    error: str


class Event(BaseModel):
    """An event, with every other field that the device's vendor added."""

    model_config = ConfigDict(extra="allow")

    device: str
    epoch: str
    seq: int
    timestamp: int = Field(description="Device clock, ms since 1970 UTC.")
    score: float
    identity_id: str
    identity_name: str
    person_type: int = Field(description=f"{PERSON_TYPES}.")
    group_name: str | None = None
    ep_id: str | None = None


class Events(BaseModel):
    """A page of events."""

    events: list[Event]
    next: str | None = Field(description="`after` of the next page; null at the end.")


class Hour(BaseModel):
    """The comparisons of one hour."""

    hour: int = Field(description="When it begins, device clock, ms since 1970 UTC.")
    events: int
    strangers: int = Field(description="Events of strangers.")
    people: int = Field(description="Distinct people other than strangers.")


class Hours(BaseModel):
    """Every hour from `since` to `until`, in order."""

    hours: list[Hour]


class DeviceRow(BaseModel):
    """The newest epoch of a device."""

    model_config = ConfigDict(extra="allow")

    device: str
    epoch: str
    state: str = Field(description="online, silent or offline.")
    last_seen: int = Field(description="Platform clock, ms since 1970 UTC.")
    head: int
    watermark: int
    lag: int
    gaps: int
    quarantined: int
    dropped: int | None
    missed: int | None = Field(description="Matches of this run of the device that missed the realtime lane.")
    takeovers: int = Field(0, description="If two boxes use this id: how often one took the other's place lately.")
    proof: str | None = Field(description="If the device is bridged: how far it is proved that its box lost nothing.")


class Devices(BaseModel):
    """Devices by name, and sums over all devices."""

    now: int
    summary: dict[str, int]
    devices: list[DeviceRow]
    more: bool


class Gap(BaseModel):
    """Seqs `first` to `last`, lost."""

    device: str
    epoch: str
    first: int
    last: int
    events: int
    declared_at: int = Field(description="Platform clock, ms since 1970 UTC.")
    reason: str | None = Field(
        description="Why the events are lost: overwritten, missing, jump or ended; null if it was declared before this was noted."
    )


class Gaps(BaseModel):
    """By device, epoch and seq."""

    gaps: list[Gap]
    more: bool


class Item(BaseModel):
    """A message that broke the contract, or one event of a message."""

    id: int
    topic: str
    reason: str
    size_bytes: int
    first_at: int
    last_at: int
    times: int
    seq: int | None


class Quarantine(BaseModel):
    """Newest first."""

    quarantine: list[Item]
    more: bool


class Health(BaseModel):
    """Whether the server reaches the database and the broker."""

    database: bool
    broker: bool


def answers(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The answers of a route, for OpenAPI."""
    return {200: {"model": model}, **{status: {"model": Error} for status in (401, 422, 503)}}


def sentence(error: Any) -> str:
    """One of pydantic's errors as a sentence that names the parameter, its value and the fault."""
    name = ".".join(str(part) for part in error["loc"][1:])
    if error["type"] == "extra_forbidden":
        return f"there is no parameter {name[:80]!r}"
    text: str = error["msg"].removeprefix("Value error, ")
    if not name:
        return text
    shown = ascii(str(error["input"])[:80])
    return f"{name}: {text}" if shown in text else f"{name} {shown}: {text[:1].lower()}{text[1:]}"
