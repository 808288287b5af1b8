"""How many budgets are known of one upstream: callers may be any number."""

from prometheus_client import CollectorRegistry

from mirror.observe.metrics import Metrics
from mirror.runtime.clock import Clock
from mirror.settings import Upstream
from mirror.upstream.accounts import NOBODY, Holder
from mirror.upstream.budgets import HOLDERS_MAX, Budgets
from mirror.upstream.telling import Telling

HEADERS = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "90;w=21600"}
ACCOUNTS = (NOBODY, Holder("ci"))


def budgets_of_hub() -> Budgets:
    metrics = Metrics(CollectorRegistry())
    upstream = Upstream(endpoints=("https://registry-1.docker.io",))
    return Budgets("docker.io", Telling(upstream, metrics.events), metrics, Clock())


def test_the_caller_that_was_heard_of_longest_ago_is_forgotten() -> None:
    budgets = budgets_of_hub()
    callers = [Holder("caller", number.to_bytes(4)) for number in range(HOLDERS_MAX)]
    for each in (*ACCOUNTS, *callers[:-2], callers[0], *callers[-2:]):
        assert budgets.read(each, HEADERS)
    forgotten = [each for each in (*ACCOUNTS, *callers) if budgets.of(each) is None]
    assert forgotten == callers[1:3]
    budget = budgets.of(callers[0])
    assert budget is not None
    assert len(budget.readings) == 2


def test_accounts_of_the_configuration_are_never_forgotten() -> None:
    budgets = budgets_of_hub()
    accounts = [Holder(f"ci-{number}") for number in range(HOLDERS_MAX + 2)]
    for each in accounts:
        budgets.read(each, HEADERS)
    assert None not in [budgets.of(each) for each in accounts]
