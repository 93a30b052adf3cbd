"""The simulation of many viewers: seeded, and its laws hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwen_vl.bench.scale import H200_8B, Figures, Simulation, Times, World, replicas_needed

SMALL = World(viewers=60, replicas=2, seconds=240, warm_s=60)
# Reading takes as long as it may: what is remembered tells.
SLOW = replace(H200_8B, read_s=1e-3, see_s=0.1)


def ran(world: World, seed: int = 1) -> Figures:
    return Simulation(world, seed).run()


def test_the_same_seed_gives_the_same_figures() -> None:
    assert ran(SMALL) == ran(SMALL)
    assert ran(SMALL, seed=2) != ran(SMALL)


def test_one_viewer_alone_waits_for_the_prompt_and_nothing_else() -> None:
    times = Times(start_s=0.5, see_s=0.0, read_s=0.0, step_s=0.1, row_s=0.0)
    alone = ran(World(viewers=1, replicas=1, times=times, seconds=2000))
    assert len(alone.waits_s) > 5
    assert alone.waits_s == pytest.approx([0.5] * len(alone.waits_s))


def test_turns_that_go_to_their_replica_find_what_it_read() -> None:
    world = replace(SMALL, times=SLOW, replicas=3)
    own, any_one = (ran(replace(world, affinity=which)) for which in (True, False))
    assert own.prefix_hits / own.later_turns > 0.95
    assert any_one.prefix_hits / any_one.later_turns < 0.7
    assert own.wait_s(0.95) < any_one.wait_s(0.95)


def test_a_question_about_a_known_picture_goes_before_new_pictures() -> None:
    """One viewer's later questions wait for a piece of another's picture, not for all of it."""
    times = Times(start_s=0.1, see_s=20.0, read_s=0.0, step_s=0.01, row_s=0.0)
    world = World(viewers=2, replicas=1, times=times, clips=0.0, seconds=4000, warm_s=0.0)
    waits_s = ran(world).waits_s
    later = [wait_s for wait_s in waits_s if wait_s < 20]
    assert len(later) > len(waits_s) / 2  # three of four
    assert max(later) < 1


def test_a_full_queue_refuses_and_the_viewers_come_back() -> None:
    crowd = ran(replace(SMALL, viewers=300, rows=2, queue=2))
    assert crowd.refused > 0
    assert crowd.waits_s


def test_a_replica_that_dies_loses_its_answers_and_the_others_go_on() -> None:
    figures = ran(replace(SMALL, mean_life_s=100.0))
    assert figures.lost > 0
    assert len(figures.waits_s) > 100


def test_uploads_over_a_narrow_line_come_one_after_another() -> None:
    wide, narrow = ran(SMALL), ran(replace(SMALL, link_mbit=4.0))
    assert narrow.asked < wide.asked


def test_more_viewers_need_more_replicas_and_wait_no_longer() -> None:
    world = replace(SMALL, times=SLOW, seconds=150)
    few, _ = replicas_needed(replace(world, viewers=10), wanted_s=1.5)
    many, figures = replicas_needed(replace(world, viewers=60), wanted_s=1.5)
    assert few < many
    assert figures.wait_s(0.95) <= 1.5
