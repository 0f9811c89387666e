"""Whose a flow is: by network, MAC address, interface; and which of several hypervisors counts it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from novanet_apps.telemetry.recorder.endpoints import Endpoint, packed
from novanet_apps.telemetry.recorder.enrichment import Index

from .telemetry_world import CLIENT, DB, EXPORTERS, WEB, directory, endpoint, rows


def ends(found: Any, **more: Any) -> list[tuple[str, str]]:
    """Ports of source and destination of each row."""
    index = Index(more.get("directory") or directory())
    enriched = index.enrich(found, EXPORTERS, set())
    names = [*(each.port for each in index.endpoints), ""]
    return [(names[s], names[d]) for s, d in zip(enriched.src.tolist(), enriched.dst.tolist(), strict=True)]


def test_the_network_of_a_tunnel_says_whose_an_address_is() -> None:
    assert ends(rows(vni=5)) == [("web", "db")]
    assert ends(rows(src="192.168.0.9", vni=6, src_mac=0, dst_mac=0)) == [("", "twin")]


def test_an_address_of_a_foreign_network_is_nobodys() -> None:
    assert ends(rows(vni=77)) == [("", "")]


def test_mac_addresses_say_it_where_there_is_no_tunnel() -> None:
    assert ends(rows()) == [("web", "db")]
    assert ends(rows(src=CLIENT, src_mac=99, dst_mac=3)) == [("", "twin")]


def test_the_interface_says_it_for_exports_without_mac_addresses() -> None:
    assert ends(rows(src=DB, dst=CLIENT, src_mac=0, dst_mac=0, in_if=7)) == [("twin", "")]


def test_an_address_that_two_have_is_nobodys_when_nothing_says_where() -> None:
    assert ends(rows(src_mac=0, dst_mac=0)) == [("web", "")]


def test_a_floating_ip_is_its_ports() -> None:
    known = directory()
    known.take({"endpoints": [endpoint("web", WEB, mac=1, also=[["outside", "198.51.100.7"]])]})
    assert ends(rows(src=CLIENT, dst="198.51.100.7", src_mac=0, dst_mac=0), directory=known) == [("", "web")]


def test_what_is_not_ip_is_known_by_its_mac_addresses() -> None:
    assert ends(rows(version=0, src="::", dst="::")) == [("web", "db")]


def test_news_replace_what_was_known() -> None:
    known = directory()
    known.take({"gone": ["db"], "endpoints": [endpoint("new", DB, mac=9)]})
    assert ends(rows(dst_mac=9), directory=known) == [("web", "new")]


def test_the_senders_hypervisor_counts_and_the_receivers_does_not() -> None:
    index, active = Index(directory()), set[int]()
    seen = index.enrich(rows(2, exporter=[0, 1]), EXPORTERS, active)
    assert seen.counted.tolist() == [True, False] and active == {0, 1}


def test_the_receivers_counts_while_the_senders_exports_nothing() -> None:
    seen = Index(directory()).enrich(rows(exporter=1), EXPORTERS, set())
    assert seen.counted.tolist() == [True]


def test_from_outside_the_receivers_counts_and_the_gateway_does_not() -> None:
    found = rows(2, src=CLIENT, src_mac=99, exporter=[0, 1])
    assert Index(directory()).enrich(found, EXPORTERS, set()).counted.tolist() == [False, True]


def test_an_exporter_that_is_no_hypervisor_counts_what_it_sees() -> None:
    assert Index(directory()).enrich(rows(exporter=2), EXPORTERS, set()).counted.tolist() == [True]


def test_the_service_is_the_lower_port() -> None:
    found = rows(4, sport=[443, 50000, 60000, 0], dport=[50000, 53, 50001, 0], protocol=[6, 17, 6, 1])
    assert Index(directory()).enrich(found, EXPORTERS, set()).service.tolist() == [443, 53, 0, 0]


def test_a_number_stands_for_all_that_is_stored() -> None:
    one = Endpoint(port="p", name="a", groups=("g",), addresses=("10.0.0.1",))
    assert one.number == Endpoint(port="p", name="a", groups=("g",), addresses=("10.0.0.2",)).number
    assert len({one.number, Endpoint(port="p", name="b").number, Endpoint(port="p", name="a").number}) == 3


def test_many_rows_are_found_as_one_by_one() -> None:
    """Against a dictionary: 300 ports in 3 networks, 5,000 rows of random ends."""
    chance = random.Random(7)
    known = directory()
    places = {}
    made = []
    for n in range(300):
        network, address = n % 3 + 10, f"10.0.{n // 100}.{n % 100}" if n % 2 else f"fd00:{n % 5}::{n:x}"
        made.append(endpoint(f"p{n}", address, vni=network, realm=f"r{network}", mac=1000 + n))
        places[network, packed(address)] = f"p{n}"
    known.take({"full": True, "endpoints": made})
    found = rows(5000, src_mac=0, dst_mac=0)
    addresses = [address for _, address in places]
    networks = [chance.randint(10, 13) for _ in found]
    chosen = [chance.choice(addresses) for _ in found]
    found["vni"], found["src"] = networks, np.array([np.frombuffer(address, "u1") for address in chosen])
    expected = [places.get((network, address), "") for network, address in zip(networks, chosen, strict=True)]
    assert [source for source, _ in ends(found, directory=known)] == expected
    assert sum(map(bool, expected)) > 500
