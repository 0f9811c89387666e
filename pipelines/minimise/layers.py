"""Rules by priority: as few layers as keep every verdict, in each of which the order does not matter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .boxes import Boxes, Rule, Space


def layers(space: Space, rules: Sequence[Rule]) -> list[list[Rule]]:
    """The rules in layers, those that decide first first. Rules of one layer that overlap have the same verdict."""
    verdicts = {verdict: number for number, verdict in enumerate(dict.fromkeys(rule.verdict for rule in rules))}
    verdict = np.array([verdicts[rule.verdict] for rule in rules], np.int32)
    boxes = Boxes(space, [rule.box for rule in rules])
    layer = np.zeros(len(rules), np.int32)
    if len(verdicts) > 1:
        for number in range(1, len(rules)):
            before = boxes.overlapping(number, slice(number)) & (verdict[:number] != verdict[number])
            layer[number] = (layer[:number][before] + 1).max(initial=0)
    found: list[list[Rule]] = [[] for _ in range(int(layer.max(initial=-1)) + 1)]
    for rule, at in zip(rules, layer.tolist(), strict=True):
        found[at].append(rule)
    return found
