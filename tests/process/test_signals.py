from __future__ import annotations

import os
import signal

import pytest
import trio
import trio.testing

from trioserve.process.signals import INTENTS, Intent, open_signals, render_task_tree


def raise_here(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "intent"), list(INTENTS.items()))
async def test_each_signal_of_the_table_arrives_as_its_intent(number, intent):
    before = signal.getsignal(number)
    with open_signals() as intents, trio.fail_after(5):
        raise_here(number)
        assert await anext(intents) is intent
    assert signal.getsignal(number) is before


async def test_the_table_says_what_operators_expect():
    assert INTENTS[signal.SIGTERM] is INTENTS[signal.SIGINT] is Intent.STOP
    assert INTENTS[signal.SIGUSR1] is Intent.REOPEN_LOGS
    assert INTENTS[signal.SIGQUIT] is Intent.DUMP_TASKS
    assert INTENTS[signal.SIGHUP] is Intent.RELOAD
    assert INTENTS[signal.SIGTTIN] is Intent.ADD_WORKER
    assert INTENTS[signal.SIGTTOU] is Intent.REMOVE_WORKER


async def test_intents_come_one_after_the_other_in_a_loop():
    seen = []
    with open_signals() as intents, trio.fail_after(5):
        raise_here(signal.SIGUSR1)
        async for intent in intents:
            seen.append(intent)
            if intent is Intent.STOP:
                break
            raise_here(signal.SIGTERM)
    assert seen == [Intent.REOPEN_LOGS, Intent.STOP]


async def test_waiting_can_be_cancelled_and_begun_again():
    with open_signals({signal.SIGUSR2: Intent.REOPEN_LOGS}) as intents, trio.fail_after(5):
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(intents)
        assert scope.cancelled_caught
        raise_here(signal.SIGUSR2)
        assert await anext(intents) is Intent.REOPEN_LOGS


async def serve_forever() -> None:
    await wait_below()


async def wait_below() -> None:
    await trio.sleep_forever()


async def parent() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_forever, name="child-1")
        nursery.start_soon(serve_forever, name="child-2")


async def test_the_task_tree_shows_each_task_with_its_stack_below_its_parent():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parent, name="the-parent")
        await trio.testing.wait_all_tasks_blocked()
        lines = render_task_tree().splitlines()
        nursery.cancel_scope.cancel()

    def find(text: str) -> int:
        (index,) = (number for number, line in enumerate(lines) if line.strip() == text)
        return index

    def indent(index: int) -> int:
        return len(lines[index]) - len(lines[index].lstrip())

    outer, first, second = find("task the-parent"), find("task child-1"), find("task child-2")
    assert outer < first < second
    assert indent(first) == indent(second) == indent(outer) + 4
    assert lines[first - 1].strip() == "nursery"
    stack = [line.strip() for line in lines[first + 1 : second]]
    assert [line.split(" in ")[1].split(":")[0] for line in stack[:2]] == ["serve_forever", "wait_below"]
    assert stack[1].endswith("await trio.sleep_forever()")
    assert __file__ in stack[0]


async def test_the_task_tree_shows_the_calling_task_too():
    assert "test_the_task_tree_shows_the_calling_task_too" in render_task_tree()


def test_without_a_trio_run_there_is_no_tree():
    with pytest.raises(RuntimeError):
        render_task_tree()
