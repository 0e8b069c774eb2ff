from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from brsolver.cluster.session import FIGURES
from brsolver.errors import ParameterError
from integration.vllm.sharing import CONTENDED, Board, board_path


def board(path, index, servers=2, ranks=3, horizon=2):
    return Board(path, servers=servers, index=index, ranks=ranks, horizon=horizon)


def _serve(path, servers, ready, forever):
    mine = board(path, 0, servers=servers)
    mine.publish(np.ones((FIGURES, 3), np.int64), 0)
    mine.publish_projection(np.ones((3, 3), np.int64))
    ready.set()
    if forever:
        time.sleep(120)
    os._exit(0)


@contextlib.contextmanager
def running_server(path, servers=2, *, forever=True):
    """Server 0 as a process of its own."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    server = context.Process(target=_serve, args=(path, servers, ready, forever))
    server.start()
    ready.wait(60)
    yield server
    server.join()


def crashed(path, servers):
    """Let server 0 come, publish, and be gone without a word."""
    with running_server(path, servers, forever=False):
        pass


def await_zombie(pid):
    status = Path(f"/proc/{pid}/stat")
    if not status.exists():
        pytest.skip("no /proc to see zombies in")
    while status.read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)


def test_each_sees_the_sum_of_the_others(tmp_path):
    boards = [board(tmp_path / "b", i, servers=3) for i in range(3)]
    rows = np.arange(3 * FIGURES * 3).reshape(3, FIGURES, 3)
    ahead = np.arange(3 * 3 * 3).reshape(3, 3, 3) * 7
    for each, figures, projected in zip(boards, rows, ahead, strict=True):
        each.publish(figures, 1)
        each.publish_projection(projected)
    for i, each in enumerate(boards):
        assert (each.others() == rows.sum(axis=0) - rows[i]).all()
        assert (each.others_projected(2) == ahead.sum(axis=0) - ahead[i]).all()
        assert (each.others_projected(1) == (ahead.sum(axis=0) - ahead[i])[:, :2]).all()
        assert each.attached == 3


def test_who_withdraws_counts_no_more(tmp_path):
    one, other = board(tmp_path / "b", 0), board(tmp_path / "b", 1)
    one.publish(np.ones((FIGURES, 3), np.int64), 0)
    assert other.others().sum() == FIGURES * 3
    one.withdraw()
    assert other.others().sum() == 0


def test_what_a_server_left_behind_is_cleared_when_it_comes_back(tmp_path):
    other = board(tmp_path / "b", 1, servers=3)
    crashed(tmp_path / "b", servers=3)
    assert other._figures.sum() == FIGURES * 3
    _again = board(tmp_path / "b", 0, servers=3)
    assert other._figures.sum() == 0


def test_the_row_of_a_server_that_crashed_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr("integration.vllm.sharing.LOOK_S", 0.0)
    mine = board(tmp_path / "b", 1)
    with running_server(tmp_path / "b") as server:
        assert mine.attached == 2
        assert (mine.others().sum(), mine.others_projected(2).sum()) == (FIGURES * 3, 9)
        server.kill()
        await_zombie(server.pid)
        # Dead, but its parent has not looked after it yet.
        assert mine.attached == 1
        assert (mine.others().sum(), mine.others_projected(2).sum()) == (0, 0)
    assert mine.others().sum() == 0


def test_nobody_else_can_read_it(tmp_path):
    _made = board(tmp_path / "b", 0)
    (made,) = tmp_path.iterdir()
    assert stat.S_IMODE(made.stat().st_mode) == 0o600


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").touch()
    (tmp_path / f"b-2-3-{FIGURES}-2").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="b"):
        board(tmp_path / "b", 0)


def test_the_file_has_no_name_once_all_have_it_open_though_no_request_came(tmp_path):
    one = board(tmp_path / "b", 0)
    assert len(list(tmp_path.iterdir())) == 1
    other = board(tmp_path / "b", 1)
    assert list(tmp_path.iterdir()) == []
    other.publish(np.ones((FIGURES, 3), np.int64), 0)
    assert one.others().sum() == FIGURES * 3


def test_the_last_to_leave_removes_the_file_though_not_all_ever_came(tmp_path):
    one, other = (board(tmp_path / "b", i, servers=3) for i in range(2))
    one.publish(np.ones((FIGURES, 3), np.int64), 0)
    one.close()
    one.close()
    assert len(list(tmp_path.iterdir())) == 1
    assert (other.attached, other.others().sum()) == (1, 0)
    del other
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_crashed_does_not_keep_the_file(tmp_path):
    mine = board(tmp_path / "b", 1, servers=3)
    crashed(tmp_path / "b", servers=3)
    mine.close()
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_ends_in_order_removes_its_file(tmp_path):
    code = (
        "import sys; from pathlib import Path; from integration.vllm.sharing import Board; "
        "b = Board(Path(sys.argv[1]), servers=2, index=0, ranks=3); assert b.path.exists()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_a_server_forks_leaves_its_row_alone(tmp_path):
    mine = board(tmp_path / "b", 0)
    mine.publish(np.ones((FIGURES, 3), np.int64), 0)
    child = multiprocessing.get_context("fork").Process(target=mine.close)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert mine._figures.sum() == FIGURES * 3
    assert len(list(tmp_path.iterdir())) == 1


def test_servers_of_different_layouts_do_not_meet(tmp_path):
    one, other = board(tmp_path / "b", 0), board(tmp_path / "b", 1, horizon=9)
    other.publish(np.ones((FIGURES, 3), np.int64), 0)
    assert one.others().sum() == 0


def test_longer_projections_than_agreed_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="restart"):
        board(tmp_path / "b", 0).require_horizon(3)


def test_the_servers_of_a_deployment_meet_and_others_do_not():
    same = board_path("tcp://a:1", 0)
    assert same == board_path("tcp://a:1", 0)
    assert len({same, board_path("tcp://a:2", 0), board_path("tcp://a:1", 4)}) == 3
    assert str(os.getppid()) not in same.name


def _count(path, index, rounds, started):
    mine = board(path, index, servers=3)
    started.wait()
    for _ in range(rounds):
        with mine.locked():
            total = int(mine.others()[0, 0] + mine._figures[index, 0, 0])
            time.sleep(0)
            if total < 100:
                mine._figures[index, 0, 0] += 1
    os._exit(mine.contended)


def test_two_servers_never_give_away_more_than_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr("integration.vllm.sharing.LOCK_PATIENCE_S", 60.0)
    context = multiprocessing.get_context("fork")
    started = context.Event()
    workers = [
        context.Process(target=_count, args=(tmp_path / "b", i, 400, started)) for i in range(2)
    ]
    for worker in workers:
        worker.start()
    started.set()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    # Of servers that have gone, which nobody counts any more.
    assert board(tmp_path / "b", 2, servers=3)._figures[:, 0, 0].sum() == 100


def _hold_and_die(path, started):
    mine = board(path, 0)
    with mine.locked():
        started.set()
        os._exit(0)


def test_the_lock_goes_with_a_server_that_dies(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    dying = context.Process(target=_hold_and_die, args=(tmp_path / "b", started))
    dying.start()
    started.wait()
    dying.join()
    mine = board(tmp_path / "b", 1)
    with mine.locked():
        pass
    assert mine.contended == 0


def test_a_lock_that_is_kept_too_long_is_gone_without(tmp_path):
    one, other = board(tmp_path / "b", 0), board(tmp_path / "b", 1)
    with one.locked(), other.locked():
        pass
    assert other.contended == 1


def test_servers_that_often_decide_without_the_lock_say_so_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("integration.vllm.sharing.LOCK_PATIENCE_S", 0.0)
    one, other = board(tmp_path / "b", 0), board(tmp_path / "b", 1)
    with one.locked():
        for i in range(2 * CONTENDED):
            assert bool(caplog.records) == (i >= CONTENDED)
            with other.locked():
                pass
    (record,) = caplog.records
    assert "100 decisions did not wait" in record.message
