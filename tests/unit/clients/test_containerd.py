"""What containerd and nerdctl are told."""

import tomllib

import pytest

from mirror.clients.containerd import CONFIG, plan_containerd, plan_hosts, plan_nerdctl
from mirror.clients.plan import CannotMergeError
from tests.unit.clients.machines import MIRROR, Machine, wish

CERTS = "/etc/containerd/certs.d"
HUB = f"{CERTS}/docker.io/hosts.toml"
V2 = 'plugins."io.containerd.grpc.v1.cri".registry'


def hosts(text: str) -> list[str]:
    return list(tomllib.loads(text)["host"])


def test_each_registry_has_its_file_and_the_hub_is_first() -> None:
    plan = plan_hosts(wish(catch_all=True), Machine({}), CERTS)
    assert list(plan.files) == [HUB, f"{CERTS}/ghcr.io/hosts.toml", f"{CERTS}/_default/hosts.toml"]
    hub, ghcr, rest = (tomllib.loads(text) for text in plan.files.values())
    host = {MIRROR: {"capabilities": ["pull", "resolve"], "dial_timeout": "2s"}}
    assert hub == {"server": "https://registry-1.docker.io", "host": host}
    assert ghcr == {"server": "https://ghcr.io", "host": host}
    assert rest == {"host": host}
    assert plan.activation(list(plan.files)) is None


def test_in_an_air_gap_the_mirror_is_tried_last_too() -> None:
    old = 'server = "https://other.example"\n[host."https://other.example"]\n'
    plan = plan_hosts(wish("docker.io", fallback=False, ca="/ca.pem"), Machine({HUB: old}), CERTS)
    told = tomllib.loads(plan.files[HUB])
    assert (told["server"], told["ca"]) == (MIRROR, "/ca.pem")
    assert told["host"].keys() == {MIRROR}
    assert told["host"][MIRROR]["ca"] == "/ca.pem"


def test_hosts_that_are_there_are_tried_after_the_mirror() -> None:
    old = (
        '# mine\nserver = "https://registry-1.docker.io"  # last\n\n'
        '[host."https://other.example"]\n  capabilities = ["pull"]\n'
    )
    new = plan_hosts(wish("docker.io"), Machine({HUB: old}), CERTS).files[HUB]
    assert hosts(new) == [MIRROR, "https://other.example"]
    assert "# mine" in new
    assert "# last" in new
    again = plan_hosts(wish("docker.io"), Machine({HUB: new}), CERTS)
    assert again.files[HUB] == new


def test_a_file_without_hosts_gets_one() -> None:
    new = plan_hosts(wish("docker.io"), Machine({HUB: 'server = "http://x"'}), CERTS).files[HUB]
    assert hosts(new) == [MIRROR]


@pytest.mark.parametrize(
    "odd", ["host = 3", "[broken", '[host]\n"https://x" = {capabilities = ["pull"]}\n']
)
def test_a_file_in_another_form_is_left_alone_and_the_rest_is_not(odd: str) -> None:
    plan = plan_hosts(wish(), Machine({HUB: odd}), CERTS)
    assert list(plan.files) == [f"{CERTS}/ghcr.io/hosts.toml"]
    assert "docker.io is left as it is" in plan.notes[0]


def test_certificates_that_containerd_would_find_are_still_found() -> None:
    # A hosts.toml turns off the search for them.
    folder = f"{CERTS}/docker.io"
    machine = Machine({f"{folder}/{name}": "" for name in ("ca.crt", "me.cert", "me.key", "x.key")})
    told = tomllib.loads(plan_hosts(wish("docker.io"), machine, CERTS).files[HUB])
    assert (told["ca"], told["client"]) == (["ca.crt"], [["me.cert", "me.key"]])


DEFAULT = f"{CERTS}/_default/hosts.toml"
ALL = (
    'ca = "ca.crt"\nclient = [["me.cert", "/etc/me.key"], "both.pem"]\n'
    '[host."https://other.example"]  # mine\n  ca = [\'ca.crt\', "/etc/ca.crt"]\n'
    '  [host."https://other.example".header]\n    x-team = "ca.crts"\n'
)


def test_what_is_said_of_all_registries_still_counts_for_those_that_get_a_file() -> None:
    # containerd takes the first directory that is there, and nothing of the others.
    given = wish("docker.io", "registry.local:5000", servers={"registry.local:5000": "http://x"})
    plan = plan_hosts(given, Machine({DEFAULT: ALL}), CERTS)
    hub, local = (tomllib.loads(text) for text in plan.files.values())
    assert list(hub["host"]) == list(local["host"]) == [MIRROR, "https://other.example"]
    assert hub["host"]["https://other.example"] == {
        "ca": ["../_default/ca.crt", "/etc/ca.crt"],
        "header": {"x-team": "ca.crts"},
    }
    assert hub["ca"] == "../_default/ca.crt"
    assert hub["client"] == [["../_default/me.cert", "/etc/me.key"], "../_default/both.pem"]
    assert "server" not in hub  # containerd knows where it is
    assert local["server"] == "http://x"
    assert "# mine" in plan.files[HUB]


def test_what_is_said_of_all_is_not_said_of_one_with_a_directory_of_its_own() -> None:
    machine = Machine({DEFAULT: ALL, f"{CERTS}/docker.io/ca.crt": ""})
    told = tomllib.loads(plan_hosts(wish("docker.io"), machine, CERTS).files[HUB])
    assert list(told["host"]) == [MIRROR]
    assert told["ca"] == ["ca.crt"]


def test_certificates_for_all_registries_are_still_found() -> None:
    names = ("ca.crt", "me.cert", "me.key")
    machine = Machine({f"{CERTS}/_default/{name}": "" for name in names})
    told = tomllib.loads(plan_hosts(wish("docker.io"), machine, CERTS).files[HUB])
    assert told["ca"] == ["../_default/ca.crt"]
    assert told["client"] == [["../_default/me.cert", "../_default/me.key"]]


@pytest.mark.parametrize("odd", ["[broken", 'ca = "a\\u002Ecrt"\n', "host = 3\n"])
def test_what_cannot_be_copied_is_not_left_out(odd: str) -> None:
    plan = plan_hosts(wish("docker.io"), Machine({DEFAULT: odd}), CERTS)
    assert not plan.files
    assert f"docker.io is left as it is: {DEFAULT}" in plan.notes[0]


def test_in_an_air_gap_nobody_else_is_asked_for_any_registry() -> None:
    plan = plan_hosts(wish("docker.io", fallback=False), Machine({DEFAULT: ALL}), CERTS)
    assert hosts(plan.files[HUB]) == [MIRROR]


def test_a_port_is_written_as_containerd_looks_it_up() -> None:
    registry = wish("registry.local:5000", servers={"registry.local:5000": "http://10.0.0.9"})
    (path,) = plan_hosts(registry, Machine({}), CERTS).files
    assert path == f"{CERTS}/registry.local_5000_/hosts.toml"
    there = Machine({f"{CERTS}/registry.local:5000/ca.crt": ""})
    ((path, text),) = plan_hosts(registry, there, CERTS).files.items()
    assert path == f"{CERTS}/registry.local:5000/hosts.toml"
    assert tomllib.loads(text)["server"] == "http://10.0.0.9"


@pytest.mark.parametrize(
    ("before", "path"),
    [
        (None, "io.containerd.grpc.v1.cri"),
        ("version = 2\n", "io.containerd.grpc.v1.cri"),
        (
            f'version = 2\n[{V2}]  # here\n  # x\n[debug]\nlevel="info"\n',
            "io.containerd.grpc.v1.cri",
        ),
        (f'version = 2\n  [{V2}]\n    config_path = ""\n', "io.containerd.grpc.v1.cri"),
        ("version = 3\n[plugins]\n", "io.containerd.cri.v1.images"),
    ],
)
def test_containerd_is_told_where_to_look(before: str | None, path: str) -> None:
    machine = Machine({} if before is None else {CONFIG: before})
    plan = plan_containerd(wish(), machine)
    new = plan.files[CONFIG]
    assert tomllib.loads(new)["plugins"][path]["registry"]["config_path"] == CERTS
    assert plan.activation([CONFIG]) == "systemctl restart containerd"
    assert plan.activation([HUB]) is None
    assert plan_containerd(wish(), Machine({CONFIG: new})).files[CONFIG] == new
    for line in (before or "").splitlines():
        assert line in new or "config_path" in line


def test_where_it_looks_already_the_files_go() -> None:
    told = f'version = 2\n[{V2}]\nconfig_path = "/etc/cri/certs.d:/etc/docker/certs.d"\n'
    for planner in (plan_containerd, plan_nerdctl):
        plan = planner(wish(), Machine({CONFIG: told}))
        assert "/etc/cri/certs.d/docker.io/hosts.toml" in plan.files
        assert plan.files.get(CONFIG, told) == told
    assert "several directories" in plan_containerd(wish(), Machine({CONFIG: told})).notes[0]


def test_of_several_directories_which_containerd_2_ignores_the_first_stays() -> None:
    images = "plugins.'io.containerd.cri.v1.images'.registry"
    other = "[plugins.'io.containerd.x'.y]\nconfig_path = ''\n"
    told = f"version = 3\n{other}[{images}]\n  config_path = '{CERTS}:/etc/docker/certs.d' # why\n"
    plan = plan_containerd(wish(), Machine({CONFIG: told}))
    new = plan.files[CONFIG]
    assert new == told.replace(f"'{CERTS}:/etc/docker/certs.d'", f'"{CERTS}"')
    assert "only /etc/containerd/certs.d stays" in plan.notes[0]
    # Certificates in the other one may be needed: then a person decides.
    used = Machine({CONFIG: told, "/etc/docker/certs.d/x/ca.crt": ""})
    assert plan_containerd(wish(), used).files[CONFIG] == told
    assert "leave /etc/containerd/certs.d alone" in plan_containerd(wish(), used).notes[0]


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("[broken", "is no TOML"),
        ('disabled_plugins = ["cri"]\n', "version 1"),
        (f'version = 2\n[{V2}.mirrors."docker.io"]\nendpoint = ["http://x"]\n', "registry.mirrors"),
        ('version = 2\nplugins = {"io.containerd.grpc.v1.cri" = {registry = {}}}\n', "form"),
    ],
)
def test_a_configuration_that_would_break_is_left_alone(before: str, reason: str) -> None:
    with pytest.raises(CannotMergeError, match=reason):
        plan_containerd(wish(), Machine({CONFIG: before}))
    assert f"{CERTS}/docker.io/hosts.toml" in plan_nerdctl(wish(), Machine({CONFIG: before})).files


def test_a_user_of_nerdctl_has_files_of_his_own() -> None:
    plan = plan_nerdctl(wish("docker.io", home="/home/me"), Machine({}))
    assert list(plan.files) == ["/home/me/.config/containerd/certs.d/docker.io/hosts.toml"]


@pytest.mark.parametrize("directory", ["/etc/own/certs.d/", "/etc/own//certs.d"])
def test_a_directory_is_written_in_one_way(directory: str) -> None:
    """The ledger of what we made has it so, too."""
    section = '[plugins."io.containerd.grpc.v1.cri".registry]'
    machine = Machine({CONFIG: f'version = 2\n{section}\nconfig_path = "{directory}"\n'})
    assert "/etc/own/certs.d/docker.io/hosts.toml" in plan_containerd(wish(), machine).files
